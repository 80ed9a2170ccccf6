"""Ten minutes at twice saturation in virtual time: policies, and what could have been had all been known.

    python -m benchmarks.slack_overload [--seeds 3] [--duration 600] [--load 2] [--scenario batching2]
    python -m benchmarks.slack_overload --table

All policies get the same runs, and every run is played to its end. *With hindsight* is the best feasible schedule that
was found by the true lengths of the runs (`simulation.hindsight`), and no worse than any policy's own. Wanted of
`slack`: 0.35 above `power_of_two` (lower 95 % bound), 0.9 of hindsight, as many runs completed, and none later than
three times the latest under `greedy`. Each simulation is a line of `results/slack_overload_cells.jsonl`, so it can be
broken off; remove the file when code has changed.
"""

from __future__ import annotations

import argparse
from statistics import fmean
from typing import Any

from rich.progress import Progress

from benchmarks.slack_batching import SCENARIOS, Cells
from benchmarks.support.environment import RESULTS, TABLE, asked_then, environment, kept, write
from benchmarks.support.within import within
from dask_fmware.simulation.hindsight import most_served_in_time
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.run import saturation
from dask_fmware.simulation.scenario import PoissonArrivals, load_scenario
from dask_fmware.simulation.workload import Workload

POLICIES = ("slack", "greedy", "least_outstanding", "power_of_two")
HINDSIGHT = "with hindsight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="batching2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--duration", type=float, default=600.0)
    parser.add_argument("--load", type=float, default=2.0, help="of saturation")
    parser.add_argument("--tries", type=int, default=6, help="schedules that are played with hindsight")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    simulations = Cells(RESULTS / "slack_overload_cells.jsonl", plays=not asked.table)
    if asked.table:
        where, rate = (kept("slack_overload")[key] for key in ("environment", "rate"))
        asked = asked_then(parser, where["command"])
        scenario = load_scenario(SCENARIOS / f"{asked.scenario}.yaml")
    else:
        scenario = load_scenario(SCENARIOS / f"{asked.scenario}.yaml")
        where, rate = environment(seed=asked.first_seed), asked.load * saturation(scenario)
    arrivals = PoissonArrivals(kind="poisson", duration_s=asked.duration)
    scenario = scenario.model_copy(update={"arrivals": arrivals})
    found: dict[str, list[dict[str, Any]]] = {policy: [] for policy in (*POLICIES, HINDSIGHT)}
    with Progress() as progress:
        task = progress.add_task("overload", total=len(found) * asked.seeds)
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            for policy in POLICIES:
                found[policy].append(simulations.get(scenario, policy, asked.load, rate, seed))
                progress.advance(task)
            known = max(round(cells[-1]["goodput"] * cells[-1]["runs"]) for cells in map(found.__getitem__, POLICIES))

            def best(seed: int = seed, known: int = known) -> dict[str, Any]:
                runs = Workload(scenario, seed).runs(rate=rate)
                most = most_served_in_time(scenario, runs, known=known, tries=asked.tries)
                return {"goodput": most / len(runs), "runs": len(runs)}

            found[HINDSIGHT].append(simulations.get(scenario, HINDSIGHT, asked.load, rate, seed, best))
            progress.advance(task)
    slack, greedy = found["slack"], found["greedy"]
    lines = [
        f"# {asked.duration:g} s at {asked.load:g} times saturation: {scenario.description}",
        "",
        f"`{where['command']}`; seeds from {asked.first_seed}, {rate:.1f} runs/s, full drain counted.",
        "",
        "| policy | goodput | `slack` above it, 95 % | of hindsight | latest run | of greedy's | mean TTFT | ended |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for policy, cells in found.items():
        above = interval([mine["goodput"] - cell["goodput"] for mine, cell in zip(slack, cells, strict=True)])
        parts = [cell["goodput"] / best["goodput"] for cell, best in zip(cells, found[HINDSIGHT], strict=True)]
        row: dict[str, Any] = {"policy": policy, "goodput": fmean(cell["goodput"] for cell in cells)}
        row |= {"above": above.mean, "above_low": above.low, "above_high": above.high, "of_hindsight": fmean(parts)}
        told = f"| {policy} | {row['goodput']:.3f} | "
        told += f"{above.mean:+.3f}{within(above.low, above.high, '+.3f', cells)}" if policy != "slack" else ""
        told += f" | {row['of_hindsight']:.2f} | "
        if policy != HINDSIGHT:
            row["latest_s"] = max(cell["latest_s"] for cell in cells)
            row["of_greedy"] = max(c["latest_s"] / g["latest_s"] for c, g in zip(cells, greedy, strict=True))
            row["ended"] = sum(cell["runs"] - cell["rejected"] for cell in cells)
            row["ttft_mean_s"] = fmean(cell["ttft_mean_s"] for cell in cells)
            told += (
                f"{row['latest_s']:.0f} s | {row['of_greedy']:.2f} | {row['ttft_mean_s']:.0f} s | {row['ended']:,} |"
            )
        else:
            told += "| | | |"
        rows.append(row)
        lines.append(told)
    write("slack_overload", {"environment": where, "rate": rate, "rows": rows}, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
