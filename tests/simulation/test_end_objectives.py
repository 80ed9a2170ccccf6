"""Objectives of the end of a run: how scenarios say them, and that the default policy serves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dask_fmware.errors import SpecError
from dask_fmware.simulation.scenario import Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SCENARIOS = Path(__file__).parents[2] / "benchmarks" / "scenarios"


def with_objective(**slo: object) -> Scenario:
    found = load_scenario(SCENARIOS / "paper.yaml").model_dump(exclude_unset=True)
    for workflow in found["workflows"].values():
        workflow["slo"] = slo
    found["arrivals"] = {"kind": "window", "count": 20, "window_s": 10.0}
    return load_scenario(found)


def test_a_bound_of_the_end_is_in_the_plan_and_in_what_counts_as_in_time() -> None:
    (first, *_) = Workload(with_objective(e2e_s=7.0), 0).runs()
    assert first.plan.objective is not None
    assert (first.plan.objective.ttft_s, first.plan.objective.e2e_s) == (None, 7.0)
    assert (first.deadline, first.is_whole) == (first.arrival + 7.0, True)


def test_a_factor_may_be_of_the_time_to_the_end() -> None:
    first_token, end = (
        Workload(with_objective(factor=1.5, plus_s=0.5, **more), 0).runs()[0] for more in ({}, {"whole": True})
    )
    assert end.deadline - end.arrival == pytest.approx(1.5 * end.unloaded_s + 0.5)
    assert end.unloaded_s > first_token.unloaded_s
    assert (end.is_whole, first_token.is_whole) == (True, False)


@pytest.mark.parametrize("more", [{"e2e_s": 5.0}, {"whole": True}])
def test_two_bounds_contradict_each_other(more: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="runs have one bound"):
        with_objective(ttft_s=2.0, **more)


@pytest.mark.parametrize("policy", ["power_of_two", "greedy"])
def test_more_runs_end_in_time_than_under_policies_that_bind_at_once(policy: str) -> None:
    scenario = with_objective(factor=1.5, plus_s=1.0, whole=True)
    met = {
        name: sum(
            outcome.met
            for seed in range(4)
            for outcome in World(scenario, name, Workload(scenario, seed).runs(), seed).play()
        )
        for name in ("slack", policy)
    }
    assert met["slack"] > 1.2 * met[policy]
