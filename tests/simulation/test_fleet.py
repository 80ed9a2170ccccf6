"""Replicas that start, fail to start, slow down, drain and stop while a simulation plays."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from dask_fmware.errors import CapacityError, SpecError
from dask_fmware.runtime import Action, Assign, Event, Machine
from dask_fmware.simulation.fleet import VirtualFleet
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.tally import measure
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

ELASTIC: dict[str, Any] = {
    "cards": {"L4": {"count": 1, "most": 3, "price_per_hour": 3600.0}},
    "models": {"m": {"on": {"L4": {"plain": {"w0": 0.1}, "load_s": 5.0}}}},
    "workflows": {
        "one": {"slo": {"ttft_s": 1.0}, "nodes": {"a": {"model": "m", "prompt": 10, "output": 5, "answers": True}}}
    },
    "arrivals": {"kind": "poisson", "rate": 4.0, "duration_s": 30.0},
    "history": 5,
    "warm_start": True,
}


def scenario(**changes: object) -> Scenario:
    return Scenario.model_validate({**ELASTIC, **changes})


def nothing(fleet: VirtualFleet) -> None: ...


class Script:
    """Does one thing at each of some times, and keeps what it saw."""

    def __init__(self, *steps: tuple[float, Any]) -> None:
        self.steps = list(steps)
        self.seen: list[tuple[float, dict[str, str]]] = []

    def control(self, fleet: VirtualFleet, machine: Machine, now: float) -> float | None:
        while self.steps and self.steps[0][0] <= now:
            self.steps.pop(0)[1](fleet)
        self.seen.append((now, {replica.replica_id: replica.state for replica in fleet}))
        return self.steps[0][0] if self.steps else None


def play(script: Script, **changes: object) -> World:
    made = scenario(**changes)
    world = World(made, "greedy", Workload(made, 1).runs(), 1, controller=script)
    world.play()
    return world


def starts_on(world: World) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for outcome in world.outcomes:
        for _, accelerator, start, _ in outcome.calls:
            found.setdefault(accelerator, []).append(start)
    return found


def test_a_started_replica_serves_after_its_load_time_and_its_card_is_paid_from_the_start() -> None:
    script = Script(
        (10.0, lambda fleet: fleet.start("m", "L4")), (14.9, lambda fleet: None), (15.1, lambda fleet: None)
    )
    world = play(script)
    states = [state for _, state in script.seen]
    assert states[1] == {"m-L4-0000": "ready", "m-L4-0001": "starting"}
    assert states[2]["m-L4-0001"] == "starting"
    assert states[3]["m-L4-0001"] == "ready"
    assert world.card_seconds["L4"] == pytest.approx(world.end_s + world.end_s - 10.0)
    assert measure(world.scenario, world.outcomes, world.card_seconds).cost == pytest.approx(world.card_seconds["L4"])


def test_more_replicas_than_cards_are_refused() -> None:
    def greedy(fleet: VirtualFleet) -> None:
        assert fleet.cards_left("L4") == 2
        fleet.start("m", "L4")
        fleet.start("m", "L4")
        with pytest.raises(CapacityError, match="all 3 cards of type 'L4' are in use"):
            fleet.start("m", "L4")
        with pytest.raises(SpecError, match="takes no further replica of model 'm'"):
            fleet.start("m", "L4", "L4-0")
        with pytest.raises(SpecError, match="not hosted on 'H100'"):
            fleet.start("m", "H100")

    play(Script((1.0, greedy)))


def test_a_card_takes_as_many_replicas_of_a_model_as_it_says_and_loses_them_together() -> None:
    def more(fleet: VirtualFleet) -> None:
        with pytest.raises(SpecError, match="card 'L4-0' takes no further replica of model 'm'"):
            fleet.start("m", "L4", "L4-0")
        fleet.start("m", "L4", "L4-1")

    script = Script((1.0, more), (7.0, nothing))
    world = play(
        script,
        cards={"L4": {"count": 2}},
        models={"m": {"on": {"L4": {"plain": {"w0": 0.1}, "replicas": 3, "per_card": 2}}}},
        failures=[{"card": "L4-0", "at_s": 5.0, "down_s": 1.0}],
    )
    begun, one_more, lost = [set(seen) for _, seen in script.seen]
    assert begun == {"m-L4-0000", "m-L4-0001", "m-L4-0002"}
    assert one_more - begun == {"m-L4-0003"}
    assert lost == {"m-L4-0000+1", "m-L4-0001", "m-L4-0002+1", "m-L4-0003"}
    assert {card.name: len(card.replicas) for card in world.fleet.cards} == {"L4-0": 2, "L4-1": 2}


def test_a_draining_replica_takes_no_new_calls_and_finishes_what_it_has() -> None:
    script = Script(
        (1.0, lambda fleet: fleet.start("m", "L4")),
        (10.0, lambda fleet: fleet.drain("m-L4-0000")),
        (20.0, lambda fleet: fleet.drain("m-L4-0000", False)),
    )
    seen: list[tuple[float, str]] = []

    def watch(event: Event, now: float, actions: list[Action]) -> None:
        seen.extend((now, action.replica_id) for action in actions if isinstance(action, Assign))

    made = scenario()
    outcomes = World(made, "greedy", Workload(made, 1).runs(), 1, watch, script).play()
    assert all(outcome.finished_at < inf and len(outcome.calls) == 1 for outcome in outcomes)
    between = {replica for now, replica in seen if 10.0 < now < 20.0}
    assert between == {"m-L4-0001"}
    assert "m-L4-0000" in {replica for now, replica in seen if now > 20.0}


def test_what_runs_on_a_stopped_replica_runs_again_elsewhere() -> None:
    script = Script((1.0, lambda fleet: fleet.start("m", "L4")), (12.0, lambda fleet: fleet.stop("m-L4-0000")))
    world = play(script)
    assert all(outcome.finished_at < inf for outcome in world.outcomes)
    assert world.calls > len(world.outcomes)
    assert world.card_seconds["L4"] == pytest.approx(12.0 + world.end_s - 1.0)


def test_scale_from_zero_holds_calls_until_a_replica_is_there() -> None:
    script = Script((3.0, lambda fleet: fleet.start("m", "L4")))
    world = play(script, cards={"L4": {"count": 0, "most": 1}})
    assert min(start for start in starts_on(world)["L4"]) == pytest.approx(8.0)
    assert all(outcome.finished_at < inf for outcome in world.outcomes)


def test_a_start_that_fails_is_told_and_its_card_given_back() -> None:
    class Again:
        starts = 0

        def control(self, fleet: VirtualFleet, machine: Machine, now: float) -> float | None:
            if not len(fleet):
                fleet.start("m", "L4")
                self.starts += 1
            return now + 1.0

    again = Again()
    hosting = {"plain": {"w0": 0.1}, "load_s": {"uniform": [1, 3]}, "failed_starts": 0.7}
    made = scenario(cards={"L4": {"count": 0, "most": 1}}, models={"m": {"on": {"L4": hosting}}})
    world = World(made, "greedy", Workload(made, 1).runs(), 1, controller=again)
    outcomes = world.play()
    assert len(world.fleet.failed_starts) == again.starts - 1 > 0
    assert all(outcome.finished_at < inf for outcome in outcomes)


def test_a_slow_card_takes_as_many_times_as_long_and_recovers() -> None:
    made = scenario(
        arrivals={"kind": "poisson", "rate": 0.5, "duration_s": 40.0},
        failures=[{"card": "L4-0", "at_s": 10.0, "down_s": 15.0, "slow": 3.0}],
    )
    took = [(s, e - s) for o in World(made, "greedy", Workload(made, 1).runs()).play() for _, _, s, e in o.calls]
    assert {round(t, 6) for s, t in took if s > 10.0 and s + t < 25.0} == {1.5}
    assert {round(t, 6) for s, t in took if s + t < 10.0 or s > 25.0} == {0.5}


@pytest.mark.parametrize(
    ("failures", "speeds"),
    [
        (((10.0, 15.0, 3.0), (20.0, 15.0, 2.0)), {15: 3.0, 22: 2.0, 30: 2.0, 40: 1.0}),
        (((10.0, 30.0, 3.0), (20.0, 5.0, 2.0)), {15: 3.0, 22: 2.0, 30: 3.0, 45: 1.0}),
        (((10.0, 20.0, None), (15.0, 2.0, None)), {5: "ready", 20: "starting", 34: "starting", 36: "ready"}),
    ],
)
def test_a_failure_is_not_over_because_another_one_is(
    failures: tuple[tuple[float, float, float | None], ...], speeds: dict[int, object]
) -> None:
    found: dict[int, object] = {}

    def look(at: int) -> Any:
        def see(fleet: VirtualFleet) -> None:
            (card,) = fleet.cards
            found[at] = card.slow if failures[0][2] else card.replicas[0].state

        return float(at), see

    play(
        Script(*[look(at) for at in speeds]),
        failures=[{"card": "L4-0", "at_s": at, "down_s": down_s, "slow": slow} for at, down_s, slow in failures],
        arrivals={"kind": "poisson", "rate": 1.0, "duration_s": 60.0},
    )
    assert found == speeds


def test_a_card_that_is_taken_again_has_the_lowest_free_number_by_which_it_fails() -> None:
    slow: dict[int, list[tuple[str, float]]] = {}

    def start(fleet: VirtualFleet) -> None:
        fleet.start("m", "L4")

    def stop(fleet: VirtualFleet) -> None:
        fleet.stop(next(iter(fleet)).replica_id)

    def look(at: int) -> Any:
        return float(at), lambda fleet: slow.update({at: [(card.name, card.slow) for card in fleet.cards]})

    play(
        Script((0.0, start), (9.0, stop), (10.0, start), (11.0, stop), (12.0, start), look(29), look(34), look(41)),
        cards={"L4": {"count": 0, "most": 4}},
        failures=[
            {"card": "L4-0", "at_s": 8.0, "down_s": 25.0, "slow": 2.0},  # of what is given back before it is over
            {"card": "L4-0", "at_s": 28.0, "down_s": 12.0, "slow": 3.0},
        ],
        arrivals={"kind": "poisson", "rate": 0.5, "duration_s": 60.0},
    )
    assert slow == {29: [("L4-0", 3.0)], 34: [("L4-0", 3.0)], 41: [("L4-0", 1.0)]}


def test_a_failure_of_a_card_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no card 'L4-7' \(known: L4-0 to L4-2\)"):
        scenario(failures=[{"card": "L4-7", "at_s": 1.0}])


def test_a_run_that_is_rejected_leaves_nothing_behind() -> None:
    one = {"nodes": {"m": {"model": "m", "prompt": 9, "output": 2, "items": 3},
                     "a": {"model": "m", "prompt": 9, "output": 5, "answers": True, "after": ["m"]}},
           "slo": {"ttft_s": 2.0}, "on_miss": "reject"}  # fmt: skip
    made = scenario(workflows={"one": one})
    world = World(made, "slack", Workload(made, 1).runs())
    outcomes = world.play()
    assert 0 < sum(outcome.finished_at == inf for outcome in outcomes) < len(outcomes)
    assert not world.machine.runs.calls
    assert world.machine.held == 0
    assert all(not replica.attempts for replica in world.fleet)


def test_a_run_that_is_rejected_by_one_call_of_a_lost_card_has_no_further_ones_to_lose() -> None:
    one = {"nodes": {"m": {"model": "m", "prompt": 9, "output": 50, "items": 2},
                     "a": {"model": "m", "prompt": 9, "output": 5, "answers": True, "after": ["m"]}},
           "slo": {"ttft_s": 2.0}, "on_miss": "reject"}  # fmt: skip
    made = scenario(
        cards={"L4": {"count": 1}},
        models={"m": {"on": {"L4": {"plain": {"w0": 0.1}, "slots": 2}}}},
        workflows={"one": one},
        arrivals={"kind": "window", "count": 1, "window_s": 0.1},
        failures=[{"card": "L4-0", "at_s": 3.0, "down_s": 1.0}],
    )
    world = World(made, "greedy", Workload(made, 1).runs())
    (outcome,) = world.play()
    assert outcome.is_rejected
    assert world.calls == 2, "both were lost"
    assert not world.machine.runs.calls
