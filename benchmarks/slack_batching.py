"""Bar 2 of routing: continuous batching on mixed cards, from a fifth to three times the saturating load.

    python -m benchmarks.slack_batching SCENARIO [--seeds 5] [--loads 0.2 0.5 0.8 1 1.5 2 3] [--duration 60]

Saturation is what a steady stream of runs can just be served at (`simulation.run.saturation`). All policies get the
same runs, and every run is played to its end. Each simulation is a line of `results/slack_SCENARIO_cells.jsonl`; what
is there by the same settings is not played again, so it can be broken off. Remove the file when code has changed.
`slack_batching SCENARIO --table` makes the table again from that file and plays nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from rich.progress import Progress

from benchmarks.support.environment import RESULTS, TABLE, asked_then, environment, kept, write
from benchmarks.support.within import within
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.run import play, saturation
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario

SCENARIOS = Path(__file__).parent / "scenarios"
POLICIES = ("slack", "greedy", "target", "least_outstanding", "power_of_two", "round_robin")
KEPT = ("goodput", "latest_s", "runs", "finished_late", "rejected", "ttft_mean_s", "late_work")

Made: TypeAlias = Callable[[], dict[str, Any]]


class Cells:
    """Simulations that were played, in a file that grows by a line for each.

    Parameters
    ----------
    path
        Of the file.
    plays
        Whether to play what is not in it.
    """

    def __init__(self, path: Path, *, plays: bool = True) -> None:
        self._path, self._plays = path, plays
        self._found: dict[str, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            cell = json.loads(line)
            self._found[self._key(cell)] = cell

    @staticmethod
    def _key(cell: dict[str, Any]) -> str:
        return json.dumps([cell[name] for name in ("policy", "load", "rate", "duration_s", "seed")])

    def get(
        self, scenario: Scenario, policy: str, load: float, rate: float, seed: int, made: Made | None = None
    ) -> dict[str, Any]:
        """Return one simulation, and play it if it has not been; `made` does so for what is no policy."""
        assert isinstance(scenario.arrivals, PoissonArrivals)
        cell: dict[str, Any] = {"policy": policy, "load": load, "rate": round(rate, 6)}
        cell |= {"duration_s": scenario.arrivals.duration_s, "seed": seed}
        if (known := self._found.get(self._key(cell))) is not None:
            return known
        if not self._plays:
            raise SystemExit(f"{self._path.name} does not have {cell}")
        if made is not None:
            cell |= made()
        else:
            measured = play(scenario, policy, seed, rate)
            cell |= {name: getattr(measured, name) for name in KEPT}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
        self._found[self._key(cell)] = cell
        return cell


def rows_of(load: float, by_policy: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Means over seeds, and how far the first policy is above each, seed by seed."""
    first, rows = next(iter(by_policy.values())), []
    for policy, cells in by_policy.items():
        row: dict[str, Any] = {"load": load, "policy": policy, "seeds": len(cells)}
        row |= {name: sum(cell[name] for cell in cells) / len(cells) for name in KEPT}
        row["latest_s"] = max(cell["latest_s"] for cell in cells)
        above = interval([mine["goodput"] - cell["goodput"] for mine, cell in zip(first, cells, strict=True)])
        rows.append(row | {"above": above.mean, "above_low": above.low, "above_high": above.high})
    return rows


def shown(row: dict[str, Any], is_first: bool) -> str:
    around = within(row["above_low"], row["above_high"], "+.3f", row["seeds"])
    above = "" if is_first else f"{row['above']:+.3f}{around}"
    return (
        f"| {row['load']:g} | {row['policy']} | {row['goodput']:.3f} | {above} | {row['ttft_mean_s']:.2f} s "
        f"| {row['latest_s']:.0f} s | {row['runs']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="batching2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--name", help="of the result, instead of slack_SCENARIO")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    name, is_played = asked.name or f"slack_{asked.scenario}", not asked.table
    scenario = load_scenario(SCENARIOS / f"{asked.scenario}.yaml")
    assert isinstance(scenario, Scenario)
    if is_played:
        where, rate = environment(seed=asked.first_seed), saturation(scenario)
    else:
        where, rate = (kept(name)[key] for key in ("environment", "saturation_runs_per_s"))
        asked = asked_then(parser, where["command"])
    arrivals = PoissonArrivals(kind="poisson", duration_s=asked.duration)
    scenario = scenario.model_copy(update={"arrivals": arrivals})
    simulations = Cells(RESULTS / f"{name}_cells.jsonl", plays=is_played)
    lines = [
        f"# {asked.scenario}: {scenario.description}",
        "",
        f"`{where['command']}`; seeds from {asked.first_seed}, {asked.duration:g} s of arrivals, saturation {rate:.1f} "
        "runs/s, full drain counted.",
        "",
        "| load | policy | goodput | slack above it, 95 % | mean TTFT | latest run | runs |",
        "|---|---|---|---|---|---|---|",
    ]
    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task(name, total=len(asked.loads) * len(asked.policies) * asked.seeds)
        for load in asked.loads:
            by_policy: dict[str, list[dict[str, Any]]] = {policy: [] for policy in asked.policies}
            for policy, cells in by_policy.items():
                for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                    cells.append(simulations.get(scenario, policy, load, rate * load, seed))
                    progress.advance(task)
            found = rows_of(load, by_policy)
            rows += found
            lines += [shown(row, row is found[0]) for row in found]
            write(name, {"environment": where, "saturation_runs_per_s": rate, "rows": rows}, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
