"""A batch job beside interactive runs, on two batching cards."""

from __future__ import annotations

import json

from benchmarks.batch_beside import SCENARIOS, of_seed
from benchmarks.batch_beside_real import render
from benchmarks.support.environment import RESULTS
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario

CAPACITY = 11.9  # runs a second


def test_a_job_costs_interactive_runs_next_to_nothing_and_does_much_of_what_they_leave() -> None:
    read = load_scenario(SCENARIOS / "batching2.yaml")
    assert isinstance(read, Scenario)
    scenario = read.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", duration_s=20.0)})
    alone = of_seed(scenario, "slack", 0.5 * CAPACITY, 3, 20.0, job=False)
    beside = of_seed(scenario, "slack", 0.5 * CAPACITY, 3, 20.0, job=True)
    assert alone["goodput"] > 0.98
    assert alone["goodput"] - beside["goodput"] < 0.03
    assert beside["rows"] > 0.25 * (CAPACITY - beside["interactive"])


def test_the_page_of_a_real_cluster_says_what_was_measured() -> None:
    kept = json.loads((RESULTS / "batch_beside_real.json").read_text())
    page = (RESULTS / "batch_beside_real.md").read_text()
    assert page == render(kept["cells"], 40.0, kept["environment"]["cores"]) + "\n"
    assert "its own work included: 0.8 to 1.5." in page
