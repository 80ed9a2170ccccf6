"""Schedules with hindsight on engines that batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from dask_fmware.simulation.hindsight import card_time_s, most_served_in_time
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    made = load_scenario(Path(__file__).parents[2] / "benchmarks" / "scenarios" / "batching2.yaml")
    return made.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", duration_s=8.0)})


def overloaded(scenario: Scenario) -> list[SampledRun]:
    return Workload(scenario, 1).runs(rate=36.0)


def test_it_has_more_in_time_than_a_policy_and_never_fewer_than_is_known(scenario: Scenario) -> None:
    runs = overloaded(scenario)
    met = sum(outcome.met for outcome in World(scenario, "slack", runs).play())
    best = most_served_in_time(scenario, runs, known=met, tries=4)
    assert met < best < len(runs)
    assert most_served_in_time(scenario, runs, known=len(runs) - 1, tries=3) == len(runs) - 1


def test_the_card_time_of_a_run_grows_with_its_tokens(scenario: Scenario) -> None:
    runs = overloaded(scenario)[:200]
    rag = sorted((run for run in runs if run.plan.workflow == "rag"), key=lambda run: run.nodes[-1].call or (0, 0))
    assert card_time_s(scenario, rag[-1]) > card_time_s(scenario, rag[0]) > 0.0
