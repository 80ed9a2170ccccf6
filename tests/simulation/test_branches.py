"""Switches of scenarios: branches without a node, and switches within branches."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from dask_fmware.model.plan import Guard
from dask_fmware.policy import POLICIES
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.whatif import what_if
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.simulation.test_replay import record
from tests.simulation.test_world import play, scenario

CALL = {"model": "small", "prompt": 20, "output": 4}
NESTED = {
    "chain": {
        "slo": {"ttft_s": 5.0},
        "nodes": {
            "ask": {**CALL, "decides": {"a": 0.5, "b": 0.5}},
            "inner": {**CALL, "when": {"ask": "a"}, "decides": {"x": 0.5, "y": 0.5}},
            "leaf": {**CALL, "when": {"inner": "x"}},
            "answer": {**CALL, "after": ["leaf"], "answers": True},
        },
    }
}


def test_runs_that_may_take_a_long_branch_are_not_taken_for_lost() -> None:
    """One run in twenty searches, which takes longer than its objective; the others pass what they have on."""
    call = {"model": "m", "prompt": 10, "output": 4}
    nodes = {
        "which": {**call, "decides": {"search": 0.05, "none": 0.95}},
        "search": {**call, "output": 80, "when": {"which": "search"}},
        "answer": {**call, "after": ["which", "search"], "answers": True},
    }
    made = Scenario.model_validate(
        {
            "cards": {"A": {"count": 2, "slots": 1}},
            "models": {"m": {"on": {"A": {"plain": {"w0": 0.05}}}}},
            "workflows": {name: {"slo": {"ttft_s": 2.0}, "nodes": nodes} for name in ("one", "two")},
            "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 100.0},
        }
    )
    outcomes = World(made, "slack", Workload(made, 1).runs(), 1).play()
    assert len(outcomes) > 50
    assert sum(outcome.parked for outcome in outcomes) < len(outcomes) / 4
    assert sum(outcome.met for outcome in outcomes) > 0.85 * len(outcomes)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nodes_behind_a_switch_of_a_branch_that_is_not_taken_are_not_played(policy: str) -> None:
    outcomes = play(policy, workflows=NESTED)
    assert {outcome.run.nodes[1].taken for outcome in outcomes} == {True, False}
    for outcome in outcomes:
        assert outcome.finished_at < inf
        assert sorted(name for name, *_ in outcome.calls) == sorted(n.name for n in outcome.run.nodes if n.taken)


def test_a_node_is_guarded_by_the_switches_around_its_own_outermost_first() -> None:
    run = Workload(scenario(workflows=NESTED), 0).runs()[0]
    leaf = run.plan.nodes[2]
    assert leaf.guards == (Guard("ask", 0), Guard("inner", 0))
    assert set(leaf.after) == {"ask", "inner"}, "it takes all values that decide of it"


def test_a_recorded_run_with_a_switch_in_a_branch_is_simulated_alike(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", "greedy", workflows=NESTED)
    recorded, simulated = list(what_if(read_recorded(tmp_path / "a.jsonl")))
    assert simulated.measured.ttft_mean_s == pytest.approx(recorded.measured.ttft_mean_s)
    assert simulated.measured.latest_s == pytest.approx(recorded.measured.latest_s)
