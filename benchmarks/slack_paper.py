"""Bar 1 of routing: the paper's setting, every policy against the best schedule that a search with hindsight finds
and a bound that no schedule exceeds.

python -m benchmarks.slack_paper [--seeds 30] [--tries 200] [--lengths deterministic]
python -m benchmarks.slack_paper --table [--lengths deterministic]
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

from benchmarks.support.environment import TABLE, kept, write
from dask_fmware.simulation.bound import most_possible
from dask_fmware.simulation.clairvoyant import most_in_time
from dask_fmware.simulation.report import crossing, interval
from dask_fmware.simulation.scenario import WindowArrivals, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

HERE = Path(__file__).parent
POLICIES = ("power_of_two_100", "power_of_two", "least_outstanding", "greedy", "target", "slack")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--tries", type=int, default=500)
    parser.add_argument("--lengths", choices=("deterministic", "drawn"), default="deterministic")
    parser.add_argument("--most", type=int, default=30)
    parser.add_argument(
        "--again", nargs="+", choices=POLICIES, metavar="POLICY", help="play only these; keep the rest of the results"
    )
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    name = f"slack_paper_{asked.lengths}"
    before = kept(name) if asked.again or asked.table else {}
    if asked.again and (before["loads"], before["first_seed"]) != (list(range(1, asked.most + 1)), asked.first_seed):
        parser.error("the kept results are of other loads or seeds; leave out --again")
    result = before if asked.table else measured(asked, before)
    text = table(result, asked.lengths)
    print(text)
    write(name, result, text, indent=None)


def measured(asked: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """Play what was asked for; the rest is as it was kept."""
    base = load_scenario(HERE / "scenarios" / "paper.yaml")
    loads = list(range(1, asked.most + 1))
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.slack_paper --seeds {asked.seeds} --tries {asked.tries} "
        f"--lengths {asked.lengths}",
        "again": asked.again,
        "first_seed": asked.first_seed,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "loads": loads,
    }
    began = time.process_time()
    for name, workflow in base.workflows.items():
        curves: dict[str, list[list[float]]] = {
            policy: [] for policy in (*POLICIES, "clairvoyant", "no schedule above")
        }
        for count in loads:
            arrivals = WindowArrivals(kind="window", count=count, window_s=10.0)
            scenario = base.model_copy(
                update={"workflows": {name: workflow}, "arrivals": arrivals, "lengths": asked.lengths}
            )
            cells: dict[str, list[float]] = {policy: [] for policy in curves}
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                most, hints = 0, []
                for policy in asked.again or POLICIES:
                    outcomes = World(scenario, policy, Workload(scenario, seed).runs(), seed).play()
                    met = sum(o.met for o in outcomes)
                    most = max(most, met)
                    cells[policy].append(met / count)
                    served = sorted(range(count), key=lambda i: (not outcomes[i].met, outcomes[i].first_token_at))
                    hints.append(served)
                if asked.again:
                    at = before[name]["goodput"]["clairvoyant"][count - 1][seed - asked.first_seed]
                    cells["clairvoyant"].append(max(at, most / count))  # at least as good as any policy's own
                    continue
                runs = Workload(scenario, seed).runs()
                best = most_in_time(scenario, runs, most, asked.tries, hints)
                bound = best if best == count else most_possible(scenario, runs)
                assert best <= bound, f"a schedule has {best} runs in time where no more than {bound} are possible"
                cells["clairvoyant"].append(best / count)
                cells["no schedule above"].append(bound / count)
            for policy, values in cells.items():
                curves[policy].append(values or before[name]["goodput"][policy][count - 1])
        means = {policy: [sum(v) / len(v) for v in values] for policy, values in curves.items()}
        result[name] = {
            "goodput": curves, "largest_n": {policy: crossing(loads, values) for policy, values in means.items()}
        }  # fmt: skip
    return result | {"cpu_s": time.process_time() - began}


def table(result: dict[str, Any], lengths: str) -> str:
    """Markdown of what is kept."""
    workflows = {name: one for name, one in result.items() if isinstance(one, dict)}
    seeds = len(next(iter(workflows.values()))["goodput"]["slack"][0])
    lines = [
        f"# The paper's setting, {lengths} lengths, {seeds} seeds from {result['first_seed']}",
        "",
        f"`{result['command']}`" + (f"; {', '.join(result['again'])} played anew since" if result["again"] else ""),
        "",
    ]
    for name, found in workflows.items():
        over_n = {
            policy: interval([sum(column) / len(column) for column in zip(*values, strict=True)], 0.0, 1.0)
            for policy, values in found["goodput"].items()
        }
        best_mean = over_n["clairvoyant"].mean
        lines += [
            f"## {name}",
            "",
            "| policy | largest N at 70 % | goodput over N | 95 % | of clairvoyant |",
            "|---|---|---|---|---|",
        ]
        for policy, one in over_n.items():
            around = f"{one.low:.3f} to {one.high:.3f}" if seeds > 1 else "-"
            largest = f"{found['largest_n'][policy]:.2f}"
            lines.append(f"| {policy} | {largest} | {one.mean:.3f} | {around} | {one.mean / best_mean:.3f} |")
        lines.append("")
    return "\n".join([*lines, f"CPU time {result['cpu_s']:.0f} s."])


if __name__ == "__main__":
    main()
