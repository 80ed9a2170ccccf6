"""Interactive runs beside a batch job that would fill the cluster, in virtual time.

    python -m benchmarks.batch_beside

Batch runs are of the same workflows, without an SLO and at the priority that `fm.evaluate` gives its rows; as there,
twice as many as there are slots are under way at any time. What the job alone completes is the capacity, by the best
policy; interactive runs arrive at a share of it, with their SLO.
Two figures for each policy and load: what the job costs interactive goodput (points, paired by seed), and what share
it uses of the capacity that interactive runs leave. Both are counted after a quarter of the time, when the cluster
has filled. Beside them stands how much of the slots' time was empty while calls of the job waited, and without.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.support.environment import RESULTS, environment, write
from benchmarks.support.slot_time import SlotTime
from benchmarks.support.within import within
from dask_fmware.evaluation.job import BACKGROUND_PRIORITY
from dask_fmware.policy.protocol import Policy
from dask_fmware.simulation.arrivals import Arrival
from dask_fmware.simulation.closed_loop import ClosedLoop, slots
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario
from dask_fmware.simulation.workload import Workload

SCENARIOS = Path(__file__).parent / "scenarios"
JOB = "batch"
IDLE = 1e-9  # runs a second, where the job is alone
DRAIN_S = 10.0  # for interactive runs that came last


def rows(scenario: Scenario, seed: int) -> Iterator[SampledRun]:
    """Rows without end, of each workflow in turn."""
    workload, names, number = Workload(scenario, seed + 500_000), list(scenario.workflows), 0
    while True:
        run = workload.run(names[number % len(names)], f"{JOB}{number}", Arrival(0.0))
        plan = replace(run.plan, objective=None, priority=BACKGROUND_PRIORITY, tenant=JOB)
        yield replace(run, plan=plan, tenant=JOB, deadline=inf)
        number += 1


def of_seed(
    scenario: Scenario, policy: str | Policy, rate: float, seed: int, window_s: float, job: bool
) -> dict[str, float]:
    """Interactive goodput, and rows and interactive runs done a second."""
    runs = Workload(scenario, seed).runs(rate=rate)
    world = ClosedLoop(rows(scenario, seed), 2 * slots(scenario) if job else 0, scenario, policy, runs, seed)
    begin_s = window_s / 4
    slot_time = SlotTime(begin_s, window_s, [state.replica for state in world.machine.fleet])
    world.machine.observers.append(slot_time)
    outcomes = world.play(window_s + DRAIN_S)

    def done(found: list[Outcome]) -> float:
        return sum(begin_s <= outcome.finished_at <= window_s for outcome in found) / (window_s - begin_s)

    interactive = [o for o in outcomes if o.run.tenant != JOB]
    counted = [o for o in interactive if o.run.arrival >= begin_s]
    return {
        "goodput": sum(outcome.met for outcome in counted) / max(len(counted), 1),
        "rows": done([o for o in outcomes if o.run.tenant == JOB]),
        "interactive": done(interactive),
        **{kind: slot_time.shares[kind] for kind in ("held", "none")},
    }


def cell(
    scenario: Scenario, capacity: float, policy: str, load: float, seeds: range, window_s: float
) -> dict[str, Any]:
    rate = load * capacity
    alone = [of_seed(scenario, policy, rate, seed, window_s, job=False) for seed in seeds]
    beside = [of_seed(scenario, policy, rate, seed, window_s, job=True) for seed in seeds]
    points = interval([100 * (a["goodput"] - b["goodput"]) for a, b in zip(alone, beside, strict=True)])
    share = interval([b["rows"] / (capacity - b["interactive"]) for b in beside])
    return {
        "policy": policy,
        "load": load,
        "seeds": len(seeds),
        "goodput_alone": sum(a["goodput"] for a in alone) / len(alone),
        "goodput_beside": sum(b["goodput"] for b in beside) / len(beside),
        "points_lost": points.mean,
        "points_lost_95": [points.low, points.high],
        "idle_used": share.mean,
        "idle_used_95": [share.low, share.high],
        **{kind: sum(b[kind] for b in beside) / len(beside) for kind in ("held", "none")},
    }


HEAD = (
    "| policy | load | goodput alone | beside the job | points lost (95 %) | idle capacity used (95 %) "
    "| slots empty beside calls that wait | without |\n" + "|---" * 8 + "|"
)


def line(cell: dict[str, Any]) -> str:
    """A row of the table."""
    seeds = cell.get("seeds", 5)  # not told formerly
    lost, used = within(*cell["points_lost_95"], ".1f", seeds), within(*cell["idle_used_95"], ".2f", seeds)
    empty = f"{cell['held']:.2f} | {cell['none']:.2f}" if "held" in cell else "- | -"  # not counted formerly
    return (
        f"| `{cell['policy']}` | {cell['load']:g} | {cell['goodput_alone']:.3f} | {cell['goodput_beside']:.3f} "
        f"| {cell['points_lost']:.1f}{lost} | {cell['idle_used']:.2f}{used} | {empty} |"
    )


def measure(
    name: str, policy: str, others: list[float], loads: list[float], seeds: range, window_s: float
) -> dict[str, Any]:
    """Cells of a policy on a scenario; the capacity is what the job alone completes by it or by one of the `others`."""
    read = load_scenario(SCENARIOS / f"{name}.yaml")
    assert isinstance(read, Scenario)
    scenario = read.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", duration_s=window_s)})
    alone = sum(of_seed(scenario, policy, IDLE, seed, window_s, job=True)["rows"] for seed in seeds) / len(seeds)
    about = f"`{policy}`: {window_s:g} s, {len(seeds)} seeds from {seeds[0]}; the job alone: {alone:.1f} runs/s."
    print(f"\n## {name}: {scenario.description}\n\n{about}\n\n{HEAD}", flush=True)
    cells = []
    for load in loads:
        cells.append(cell(scenario, max([alone, *others]), policy, load, seeds, window_s))
        print(line(cells[-1]), flush=True)
    return {"description": scenario.description, "about": about, "job_alone_runs_per_s": alone, "cells": cells}


def render(found: dict[str, dict[str, Any]]) -> str:
    """All tables."""
    text = ["# Interactive runs beside a batch job, simulated", "", "`python -m benchmarks.batch_beside`"]
    for name, policies in found.items():
        text += ["", f"## {name}: {next(iter(policies.values()))['description']}", ""]
        text += [one["about"] + "  " for one in policies.values()]
        text += ["", HEAD, *(line(cell) for one in policies.values() for cell in one["cells"])]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1100)
    parser.add_argument("--window", type=float, default=100.0, help="seconds")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument(
        "--scenarios",
        nargs="+",
        default=["batching6", "batching2", "emulated4"],
        help="of the others, what was measured stays",
    )
    parser.add_argument("--policies", nargs="+", default=["slack", "greedy"])
    parser.add_argument("--quick", action="store_true", help="one seed below 100; writes nothing")
    chosen = parser.parse_args()
    seeds = range(1) if chosen.quick else range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    path = RESULTS / "batch_beside.json"
    found: dict[str, Any] = json.loads(path.read_text()).get("scenarios", {}) if path.exists() else {}
    for name in chosen.scenarios:
        policies = found.setdefault(name, {})
        for policy in chosen.policies:
            others = [one["job_alone_runs_per_s"] for other, one in policies.items() if other != policy]
            policies[policy] = measure(name, policy, others, chosen.loads, seeds, chosen.window)
            if not chosen.quick:
                write("batch_beside", {"environment": environment(seed=seeds[0]), "scenarios": found}, render(found))


if __name__ == "__main__":
    main()
