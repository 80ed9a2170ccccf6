"""Bar 4 of routing: two tenants of equal weight, one of which sends five times its share.

    python -m benchmarks.slack_fairness [--seeds 10] [--duration 60]
    python -m benchmarks.slack_fairness --table

The polite tenant sends a part of what half of the cluster (one A100 and one A10) can serve, and the other five times as
much. Compared is the goodput of the polite tenant with that of the very same runs alone on half of the cluster.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.support.environment import TABLE, asked_then, kept, write
from benchmarks.support.within import within
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.run import saturation
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

HERE = Path(__file__).parent


def cluster(halves: int, shares: dict[str, float], duration_s: float) -> Scenario:
    """Return so many halves of the cluster, with tenants that send RAG runs at these relative rates."""
    base = load_scenario(HERE / "scenarios" / "batching2.yaml")
    rag = base.workflows["rag"]
    return base.model_copy(
        update={
            "cards": {
                name: card.model_copy(update={"count": halves * card.count}) for name, card in base.cards.items()
            },
            "workflows": {t: rag.model_copy(update={"tenant": t, "share": share}) for t, share in shares.items()},
            "arrivals": PoissonArrivals(kind="poisson", duration_s=duration_s),
        }
    )


def goodput(outcomes: Sequence[Outcome], tenant: str) -> float:
    met = [outcome.met for outcome in outcomes if outcome.run.tenant == tenant]
    return sum(met) / len(met)


def trial(policy: str, part: float, rate: float, duration_s: float, seed: int) -> tuple[float, float, float]:
    """Goodput of the polite tenant alone on half of the cluster, beside the other, and of the other."""
    both, half = cluster(2, {"polite": 1.0, "greedy": 5.0}, duration_s), cluster(1, {"polite": 1.0}, duration_s)
    runs = Workload(both, seed).runs(rate=6 * part * rate)
    alone = World(half, policy, [run for run in runs if run.tenant == "polite"], seed).play()
    shared = World(both, policy, runs, seed).play()
    return goodput(alone, "polite"), goodput(shared, "polite"), goodput(shared, "greedy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--parts", type=float, nargs="+", default=[0.5, 0.7, 0.9])
    parser.add_argument("--policies", nargs="+", default=["slack", "greedy"])
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    raw = kept("slack_fairness") if asked.table else None
    if raw is not None:
        asked = asked_then(parser, raw["command"])
    rate = saturation(cluster(1, {"polite": 1.0}, asked.duration))
    if raw is None:
        raw = {
            "command": f"python -m benchmarks.slack_fairness --seeds {asked.seeds} --duration {asked.duration:g}",
            "python": platform.python_version(),
            "machine": platform.machine(),
            "rows": [],
        }
        for policy in asked.policies:
            for part in asked.parts:
                seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
                cells = [trial(policy, part, rate, asked.duration, seed) for seed in seeds]
                raw["rows"].append({"policy": policy, "part": part, "cells": cells})
                print(shown(raw["rows"][-1]), flush=True)
    lines = [
        "# Fairness: a tenant beside one of equal weight that sends five times as much",
        "",
        f"`{raw['command']}`; seeds from {asked.first_seed}; half of the cluster serves {rate:.1f} runs/s",
        "",
        "| policy | sends, of half a cluster | alone on half | beside the other | difference, 95 % | the other |",
        "|---|---|---|---|---|---|",
        *map(shown, raw["rows"]),
    ]
    write("slack_fairness", raw, "\n".join(lines))


def shown(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = row["cells"]
    alone, shared, other = (fmean(cell[i] for cell in cells) for i in range(3))
    above = interval([cell[1] - cell[0] for cell in cells])
    return (
        f"| {row['policy']} | {row['part']:g} | {alone:.3f} | {shared:.3f} "
        f"| {above.mean:+.3f}{within(above.low, above.high, '+.3f', cells)} | {other:.3f} |"
    )


if __name__ == "__main__":
    main()
