"""Interactive runs beside a batch job that would fill the cluster, in virtual time.

    python -m benchmarks.batch_beside

Interactive runs arrive at a share of saturation, with their SLO. Batch runs are of the same workflows, without one
and at the priority that `fm.evaluate` gives its rows; there are more of them than the cards can do, from the first
moment on.
Two figures for each policy and load: what the job costs interactive goodput (points, paired by seed), and what share
it uses of the capacity that interactive runs leave (runs done in the window, of those at saturation less the
interactive ones).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.environment import environment, write
from dask_fmware.evaluation.job import BACKGROUND_PRIORITY
from dask_fmware.simulate.arrivals import Arrival
from dask_fmware.simulate.report import interval
from dask_fmware.simulate.run import saturation
from dask_fmware.simulate.scenario import PoissonArrivals, Scenario, load_scenario
from dask_fmware.simulate.workload import SampledRun, Workload
from dask_fmware.simulate.world import World

SCENARIO = Path(__file__).parent / "scenarios" / "batching6.yaml"
WINDOW_S = 60.0
HEAD_START = 1.15  # of the job over what could be done in the window, so that it never runs dry


def backlog(scenario: Scenario, seed: int, count: int) -> list[SampledRun]:
    """Batch runs, all there at the start."""
    workload, names = Workload(scenario, seed + 500_000), list(scenario.workflows)
    made = []
    for number in range(count):
        run = workload.run(names[number % len(names)], f"batch{number}", Arrival(0.0))
        plan = replace(run.plan, objective=None, priority=BACKGROUND_PRIORITY, tenant="batch")
        made.append(replace(run, plan=plan, tenant="batch", deadline=inf))
    return made


def goodput(outcomes: list[Any]) -> float:
    return sum(outcome.met for outcome in outcomes) / max(len(outcomes), 1)


def cell(scenario: Scenario, full: float, policy: str, load: float, seeds: range) -> dict[str, Any]:
    lost, used, alone_goodput, beside_goodput = [], [], [], []
    for seed in seeds:
        runs = Workload(scenario, seed).runs(rate=load * full)
        alone = World(scenario, policy, runs, seed).play()
        batch = backlog(scenario, seed, int(HEAD_START * full * WINDOW_S * (1 - load)) + 50)
        both = World(scenario, policy, [*batch, *Workload(scenario, seed).runs(rate=load * full)], seed).play()
        beside = [outcome for outcome in both if outcome.run.tenant != "batch"]
        done = sum(o.finished_at <= WINDOW_S for o in both if o.run.tenant == "batch")
        interactive = sum(o.finished_at <= WINDOW_S for o in beside)
        used.append(done / max(full * WINDOW_S - interactive, 1e-9))
        alone_goodput.append(goodput(alone))
        beside_goodput.append(goodput(beside))
        lost.append(100 * (alone_goodput[-1] - beside_goodput[-1]))
    points, share = interval(lost), interval(used)
    return {
        "policy": policy,
        "load": load,
        "goodput_alone": sum(alone_goodput) / len(alone_goodput),
        "goodput_beside": sum(beside_goodput) / len(beside_goodput),
        "points_lost": points.mean,
        "points_lost_95": [points.low, points.high],
        "idle_used": share.mean,
        "idle_used_95": [share.low, share.high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--policies", nargs="+", default=["slack", "greedy"])
    parser.add_argument("--quick", action="store_true", help="one seed below 100; writes nothing")
    chosen = parser.parse_args()
    seeds = range(1) if chosen.quick else range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    read = load_scenario(SCENARIO)
    assert isinstance(read, Scenario)
    scenario = read.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", duration_s=WINDOW_S)})
    full = saturation(scenario)
    cells = []
    lines = [
        f"`batching6`, {WINDOW_S:g} s, {len(seeds)} seeds from {seeds[0]}, saturation {full:.1f} runs/s",
        "",
        "| policy | load | goodput alone | beside batch | points lost (95 %) | idle capacity used (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for policy in chosen.policies:
        for load in chosen.loads:
            made = cell(scenario, full, policy, load, seeds)
            cells.append(made)
            low, high = made["points_lost_95"]
            used_low, used_high = made["idle_used_95"]
            lines.append(
                f"| `{policy}` | {load:g} | {made['goodput_alone']:.3f} | {made['goodput_beside']:.3f} "
                f"| {made['points_lost']:.1f} ({low:.1f} to {high:.1f}) "
                f"| {made['idle_used']:.2f} ({used_low:.2f} to {used_high:.2f}) |"
            )
            print(lines[-1], flush=True)
    if not chosen.quick:
        data = {"environment": environment(seed=seeds[0]), "saturation_runs_per_s": full, "cells": cells}
        write("batch_beside", data, "# Interactive runs beside a batch job\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
