"""Switches of scenarios within branches."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from dask_fmware.model.plan import Guard
from dask_fmware.policy import POLICIES
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.whatif import what_if
from dask_fmware.simulation.workload import Workload
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
