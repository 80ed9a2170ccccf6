"""Runs that cannot be in time under `slack`: served all the same, and soon once nobody urgent comes."""

from __future__ import annotations

from math import inf

import pytest

from benchmarks.support.trial import Cell, scenario_of
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

POLICIES = ("slack", "greedy")


def played(workflow: str, count: int, seed: int, policy: str = "slack") -> list[Outcome]:
    scenario = scenario_of(Cell(workflow, count, seed))  # type: ignore[arg-type]
    return World(scenario, policy, Workload(scenario, seed).runs(), seed).play()


@pytest.mark.parametrize("seed", range(5, 15))
def test_every_run_ends(seed: int) -> None:
    outcomes = played("shopping", 8, seed)
    assert [outcome.run.run_id for outcome in outcomes if outcome.finished_at == inf] == []


@pytest.mark.parametrize("workflow", ["rag", "shopping"])
def test_later_calls_of_lost_runs_do_not_hold_up_other_lost_runs(workflow: str) -> None:
    ends = {policy: [outcome.finished_at for outcome in played(workflow, 30, 3, policy)] for policy in POLICIES}
    slack, greedy = map(max, ends.values())
    assert slack < 1.3 * greedy
