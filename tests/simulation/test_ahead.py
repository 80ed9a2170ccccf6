"""Calls that are bound one ahead, in virtual time: where the way to an engine costs something, and ends are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dask_fmware.runtime import Action, Assign, Event
from dask_fmware.runtime.contract import Contract
from dask_fmware.runtime.replicas import ahead as rule
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.replay import replay
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

WAY_S = 0.02  # there and back
CALL_S = 0.2


def scenario(slots: int = 1, output: Any = 20, delivery_s: float = WAY_S / 2, call_s: float = CALL_S) -> Scenario:
    """One card that gets 60 calls within a second."""
    return Scenario.model_validate(
        {
            "cards": {"card": {"count": 1}},
            "models": {"m": {"on": {"card": {"plain": {"w0": call_s / 20}, "slots": slots}}}},
            "workflows": {"one": {"nodes": {"x": {"model": "m", "prompt": 10, "output": output, "answers": True}}}},
            "arrivals": {"kind": "window", "count": 60, "window_s": 1.0},
            "warm_start": True,
            "delivery_s": delivery_s,
        }
    )


def played(made: Scenario, policy: str = "greedy", log: Any = None) -> tuple[World, int]:
    """Play a scenario under the contract; also return how many calls were bound ahead."""
    contract, bound, at = Contract(3), 0, 0.0

    def watch(event: Event, now: float, actions: list[Action]) -> None:
        nonlocal bound, at
        assert now >= at, "time goes on"
        at = now
        contract.observe(event, actions, now)
        bound += sum(isinstance(action, Assign) and action.wait_s > 0 for action in actions)

    world = World(made, policy, Workload(made, 1).runs(), 1, watch, log=log)
    world.play()
    assert contract.finish() == []
    return world, bound


@pytest.mark.parametrize("policy", ["greedy", "slack", "least_outstanding"])
@pytest.mark.parametrize("slots", [1, 4])
def test_the_gap_is_closed(policy: str, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scenario(slots)
    world, bound = played(made, policy)
    monkeypatch.setattr(rule, "LEAST_S", float("inf"))
    late, none = played(made, policy)
    assert none == 0
    assert bound > 45
    calls = 60 / slots
    assert late.end_s - world.end_s > 0.6 * calls * WAY_S, "nearly each call starts earlier by the way"
    assert world.end_s < calls * CALL_S + 12 * WAY_S


@pytest.mark.parametrize("made", [scenario(delivery_s=0.0), scenario(output={"uniform": [1, 40]})])
def test_without_a_way_or_a_known_end_nothing_is_ahead(made: Scenario) -> None:
    assert played(made)[1] == 0


def test_a_log_with_calls_that_were_ahead_is_replayed_to_the_same_decisions(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        _, bound = played(scenario(), "slack", file.write)
    assert bound > 45
    assert replay(path).difference is None


@pytest.mark.parametrize("policy", ["greedy", "slack"])
def test_calls_that_are_shorter_than_the_way_to_their_engine_do_not_turn_back_time(policy: str) -> None:
    """A call that was ahead has begun when its slot is free, and its end is a way off that is longer than itself."""
    _, bound = played(scenario(delivery_s=0.02, call_s=0.01), policy)
    assert bound > 30


def test_nothing_is_noted_for_the_past() -> None:
    agenda, played_at = Agenda(), []
    agenda.at(1.0, lambda: agenda.at(1.0 - 1e-12, lambda: played_at.append(agenda.now)))
    agenda.play(2.0)
    assert played_at == [1.0]
    with pytest.raises(ValueError, match=r"it is 1\.0 s, nothing can be noted for 0\.5 s"):
        agenda.at(0.5, played_at.clear)
