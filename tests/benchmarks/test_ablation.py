"""The ablation switches parts of the shipped policy off, and nothing else."""

from __future__ import annotations

import pytest

from benchmarks.ablation import PARTS, Without
from benchmarks.support.trial import Cell, scenario_of
from dask_fmware.policy.protocol import Policy
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World


def ends(policy: str | Policy) -> list[float]:
    scenario = scenario_of(Cell("shopping", 15, 4))
    return [outcome.finished_at for outcome in World(scenario, policy, Workload(scenario, 4).runs(), 4).play()]


def test_with_nothing_switched_off_it_is_the_shipped_policy() -> None:
    assert ends(Without("")) == ends("slack")


@pytest.mark.parametrize("part", ["look-ahead", "late binding", "parking", "restraint of background calls"])
def test_a_part_that_is_off_changes_what_happens(part: str) -> None:
    assert part in PARTS
    assert ends(Without(part)) != ends("slack")
