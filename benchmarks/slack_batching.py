"""Bar 2 of routing: continuous batching on mixed cards, from a fifth to three times the saturating load.

python -m benchmarks.slack_batching SCENARIO [--seeds 5] [--loads 0.2 0.5 0.8 1 1.5 2 3] [--duration 60]
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from dask_fmware.simulate.report import paired
from dask_fmware.simulate.run import Cell, saturation
from dask_fmware.simulate.scenario import PoissonArrivals, load_scenario
from dask_fmware.simulate.tally import measure
from dask_fmware.simulate.workload import Workload
from dask_fmware.simulate.world import World

HERE = Path(__file__).parent
POLICIES = ("slack", "greedy", "target", "least_outstanding", "power_of_two", "round_robin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="batching2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--duration", type=float, default=60.0)
    asked = parser.parse_args()
    scenario = load_scenario(HERE / "scenarios" / f"{asked.scenario}.yaml")
    rate = saturation(scenario)
    arrivals = PoissonArrivals(kind="poisson", duration_s=asked.duration)
    scenario = scenario.model_copy(update={"arrivals": arrivals})
    command = (
        f"python -m benchmarks.slack_batching {asked.scenario} --seeds {asked.seeds} --duration {asked.duration:g}"
    )
    lines = [
        f"# {asked.scenario}: {scenario.description}",
        "",
        f"`{command}`; seeds from {asked.first_seed}, saturation {rate:.1f} runs/s, full drain counted",
        "",
        "| load | policy | goodput | slack above it, 95 % | latest run | runs |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for load in asked.loads:
        first: Cell | None = None
        for policy in POLICIES:
            measured = []
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                runs = Workload(scenario, seed).runs(rate=rate * load)
                measured.append(measure(scenario, World(scenario, policy, runs, seed).play()))
            cell = Cell(policy, load, tuple(measured))
            first = first or cell
            above = paired(first, cell)
            row = cell.record() | {"above": above.mean, "above_low": above.low, "above_high": above.high}
            rows.append(row)
            shown = "" if cell is first else f"{above.mean:+.3f} ({above.low:+.3f} to {above.high:+.3f})"
            latest = f"{row['latest_s']:.0f} s"
            lines.append(f"| {load:g} | {policy} | {row['goodput']:.3f} | {shown} | {latest} | {row['runs']:.0f} |")
            print(lines[-1], flush=True)
    out = HERE / "results"
    made = {"command": command, "python": platform.python_version(), "machine": platform.machine(), "rows": rows}
    (out / f"slack_{asked.scenario}.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    (out / f"slack_{asked.scenario}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
