"""Logs of clusters, which bring no scenario, as something to simulate: replicas, limits and options as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dask_fmware.cli import fmware
from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.simulation.agreement import agreement
from dask_fmware.simulation.recorded import Recorded, read_recorded
from dask_fmware.simulation.recorded import recorded as module
from dask_fmware.simulation.replay import replay
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.whatif import what_if
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.simulation.test_replay import record
from tests.simulation.test_world import SERIAL

Line = dict[str, Any]


def of_cluster(
    folder: Path, change: Callable[[list[Line]], None] = lambda lines: None, head: Line | None = None, **changes: Any
) -> Recorded:
    """What is read of a log as a cluster writes it, which lies in `folder` then: of a simulation, without its scenario.

    `change` changes its lines or adds some, `head` the first one.
    """
    record(folder / "simulated.jsonl", **changes)
    first, *lines = map(json.loads, (folder / "simulated.jsonl").read_text().splitlines())
    first |= {"scenario": None, **(head or {})}
    change(lines)
    lines.sort(key=lambda line: line["at"])
    path = folder / "cluster.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [first, *lines]))
    return read_recorded(path)


def test_prompts_that_were_served_are_not_refused_as_bytes_were_taken_for_tokens(tmp_path: Path) -> None:
    """100,000 bytes are at least 6,250 tokens where the longest has 16 bytes, which the context of 32,768 holds."""

    def change(lines: list[Line]) -> None:
        for told in [line["is"]["replica"] for line in lines if line["event"] == "ReplicaReady"]:
            told["longest_token_bytes"] = 16 if "-slow-" in told["name"] else 8
        plans = [line["is"]["plan"] for line in lines if line["event"] == "RunSubmitted"]
        for node in next(plan for plan in plans if plan["run_id"] == "r0")["nodes"]:
            node["prompt_bytes"] = 100_000

    recorded = of_cluster(tmp_path, change, policy="greedy")
    assert {model.longest_token_bytes for model in recorded.fleet.models.values()} == {16}
    assert [answer.measured.never_ended for answer in what_if(recorded, ["slack"])] == [0, 0, 0]


def test_a_what_if_weighs_tenants_and_repeats_calls_as_the_recorded_router_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[World] = []

    class Kept(World):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    options = {"tenants": {"search": 2.0}, "hedge_budget": 0.25, "max_attempts": 5, "unhedged": ["large"]}
    recorded = of_cluster(tmp_path, head=options)
    monkeypatch.setattr(module, "World", Kept)
    list(what_if(recorded, ["greedy"], add={"fast": 1}, slo_s=3.0, load=2.0))
    agreement(recorded)
    assert len(made) == 3
    for machine in [world.machine for world in made]:
        hedging = machine.hedging
        assert machine.tenants == {"search": 2.0}
        assert (hedging.budget, set(hedging.exempt), machine.max_attempts) == (0.25, {"large"}, 5)


def test_a_log_with_a_weight_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"its head is damaged \(tenants: weights are positive numbers"):
        of_cluster(tmp_path, head={"tenants": {"search": 0}})


def test_a_simulation_with_other_options_is_replayed_and_asked_what_if_with_them(tmp_path: Path) -> None:
    path, options = tmp_path / "a.jsonl", {"hedge_budget": 0.5, "max_attempts": 5, "unhedged": ("large",)}
    made = Scenario.model_validate({**SERIAL, "tenants": {"search": {"weight": 2.0}}})
    with path.open("w") as file:
        World(made, "slack", Workload(made, 3).runs(), 3, log=file.write, **options).play()
    assert replay(path).difference is None
    recorded = read_recorded(path)
    machine = recorded.world(recorded.fleet, "slack", recorded.runs, 3).machine
    assert machine.tenants == {"search": 2.0}
    assert (machine.hedging.budget, set(machine.hedging.exempt), machine.max_attempts) == (0.5, {"large"}, 5)


def test_replicas_of_a_model_that_share_a_card_are_all_there(tmp_path: Path) -> None:
    recorded = of_cluster(
        tmp_path,
        cards={"A": {"count": 2}},
        models={"m": {"on": {"A": {"plain": {"w0": 0.05}, "replicas": 3, "per_card": 2}}}},
        workflows={"one": {"nodes": {"a": {"model": "m", "prompt": 10, "output": 5, "answers": True}}}},
    )
    assert list(recorded.fleet.placement()) == [("m", "A-0"), ("m", "A-1"), ("m", "A-0")]
    assert len(list(recorded.with_cards({"A": 2}).placement())) == 6
    assert len(list(recorded.with_cards({"A": -1}).placement())) == 2
    assert len(list(what_if(recorded, ["greedy"]))) == 3
    assert recorded.changed == 0


def test_replicas_that_came_and_went_are_told_and_as_many_simulated_as_there_were_at_once(tmp_path: Path) -> None:
    def change(lines: list[Line]) -> None:
        there = [line["is"]["replica"] for line in lines if line["event"] == "ReplicaReady"]
        known = next(told for told in there if told["name"] == "small-fast-0000")
        begin = min(line["at"] for line in lines if line["event"] == "RunSubmitted")
        end = max(line["at"] for line in lines if line["event"] == "RunEnded")

        def ready(share: float, name: str) -> Line:
            made = {**known, "replica_id": name, "name": name, "card": f"card of {name}"}
            return happened(share, "ReplicaReady", {"replica": made})

        def happened(share: float, event: str, told: Line) -> Line:
            return {"at": begin + share * (end - begin), "event": event, "is": told, "do": []}

        lines[:] = [
            *lines,
            *[ready(-0.01, "early"), ready(0.2, "first"), happened(0.3, "ReplicaGone", {"replica_id": "first"})],
            *[ready(0.4, "second"), happened(0.5, "ReplicaDraining", {"replica_id": "small-slow-0000"})],
            *[happened(1.01, "ReplicaGone", {"replica_id": name}) for name in ("early", "second", "large-fast-0000")],
        ]

    recorded = of_cluster(tmp_path, change)
    counts = {(name, card): on.replicas for name, spec in recorded.fleet.models.items() for card, on in spec.on.items()}
    assert counts.pop(("small", "fast")) == 3, "with early and first, in whose place second came"
    assert set(counts.values()) == {1}
    assert recorded.fleet.cards["fast"].count == 3
    assert recorded.changed == 3, "first, second and the one that drained; who came earlier or went later did serve"
    log = str(tmp_path / "cluster.jsonl")
    told = CliRunner().invoke(fmware, ["simulate", "--record", log]).output
    assert "3 replicas came, went or drained while it was recorded" in told
    told = CliRunner().invoke(fmware, ["replay", log, "--policy", "greedy", "--json"]).output
    assert json.loads(told)["changed_replicas"] == 3


def test_a_card_more_hosts_a_replica_more_where_models_have_cards_of_their_own(tmp_path: Path) -> None:
    hosted = {"on": {"L4": {"plain": {"w0": 0.01}, "replicas": 2}}}
    node = {"prompt": 10, "output": 5}
    nodes = {"a": {"model": "m", **node}, "b": {"model": "n", "after": ["a"], "answers": True, **node}}
    recorded = of_cluster(
        tmp_path,
        cards={"L4": {"count": 4}},
        models={"m": hosted, "n": hosted},
        workflows={"two": {"nodes": nodes}},
    )
    hosts = {more: [card for _, card in recorded.with_cards({"L4": more}).placement()] for more in (1, 2, -1, -2)}
    assert {more: (len(cards), len(set(cards))) for more, cards in hosts.items()} == {
        1: (5, 5), 2: (6, 6), -1: (3, 3), -2: (2, 2)
    }  # fmt: skip


def test_an_unknown_policy_is_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = of_cluster(tmp_path)
    monkeypatch.setattr(World, "play", lambda world: pytest.fail("it is played"))
    with pytest.raises(DeploymentError, match=r"no policy is called 'gredy'.*did you mean 'greedy'"):
        next(what_if(recorded, ["slack", "gredy"]))


def test_an_unknown_card_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    recorded = of_cluster(tmp_path)
    with pytest.raises(SpecError, match="no card 'H9' was recorded"):
        next(what_if(recorded, ["slack"], add={"H9": 1}))


def test_a_simulation_that_began_with_loading_is_played_again_at_its_own_times(tmp_path: Path) -> None:
    models = {
        m: {"on": {card: {"plain": {"w0": 0.01}, "load_s": 5.0} for card in ("fast", "slow")}}
        for m in ("small", "large")
    }
    arrivals = {"kind": "window", "count": 12, "window_s": 20.0}
    world = record(tmp_path / "a.jsonl", "greedy", models=models, arrivals=arrivals)
    recorded = read_recorded(tmp_path / "a.jsonl")
    assert [run.arrival for run in recorded.runs] == [one.run.arrival for one in world.outcomes]
    was, simulated = list(what_if(recorded))
    assert simulated.measured.ttft_mean_s == pytest.approx(was.measured.ttft_mean_s)
    assert simulated.measured.latest_s == pytest.approx(was.measured.latest_s)


def test_a_run_that_was_computed_again_is_a_run_of_its_own(tmp_path: Path) -> None:
    def change(lines: list[Line]) -> None:
        of_runs = [line for line in lines if {"plan", "run_id", "call_id"} & set(line["is"])]
        lines += [line | {"at": line["at"] + seconds} for line in of_runs for seconds in (100.0, 200.0)]

    recorded = of_cluster(tmp_path, change)
    parts = [slice(begin, begin + 12) for begin in (0, 12, 24)]
    once, *again = [recorded.outcomes[part] for part in parts]
    assert recorded.left_out == 0
    for outcomes in again:
        for first, second in zip(once, outcomes, strict=True):
            took_s = [one.finished_at - one.run.arrival for one in (first, second)]
            assert took_s[1] == pytest.approx(took_s[0])
            assert [name for name, *_ in second.calls] == [name for name, *_ in first.calls]
    names = {run.plan.run_id for run in recorded.runs} | {call.call_id for call in recorded.assigned}
    assert len(names) == 36 + sum(len(outcome.calls) for outcome in recorded.outcomes)
    *_, close = what_if(recorded, ["greedy"], load=1000.0)  # all of them at once
    assert (close.measured.runs, close.measured.never_ended) == (36, 0)
