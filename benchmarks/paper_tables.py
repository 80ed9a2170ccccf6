"""Tables, plot and headline of the paper's experiment, made from the cells that `benchmarks.paper` keeps.

    python -m benchmarks.paper_tables [--table] [--readme]

Beside each system stands what the simulator says of the same runs: by the code as it is, or with ``--table`` what it
said when they were last simulated, which `results/paper.json` keeps. ``--readme`` writes the headline into README.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection
from functools import partial
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.support.curves import METRICS, Curves, Estimate, kept, saturation
from benchmarks.support.environment import RESULTS, TABLE, write
from benchmarks.support.environment import kept as kept_result
from benchmarks.support.trial import FAST, Cell, scenario_of
from benchmarks.support.within import within
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.tally import measure
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

__all__ = ["HEADLINE", "OTHERS", "headline", "make", "other_settings", "out_of_turn", "readme_with"]

CELLS = RESULTS / "paper_cells.jsonl"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- headline: written by python -m benchmarks.paper_tables --readme -->", "<!-- end of headline -->"
STANDS_FOR = {"ray": "power_of_two"}  # policy of the simulator that a system is compared with
PAPER = {"greedy": ("-33.8 %", "-33 %", "+26.4 %", "10 to 7")}  # latency, TTFT, goodput, largest N, against Ray Serve
LIGHT = 8  # runs, about what Ray Serve carries
SHARES = ("goodput", "fast_share")  # metrics that are no times
HEADLINE = ("ray", "greedy", "slack")
OTHERS = ("target", "least_outstanding", "ray local", "ray ongoing 1", "ray ongoing 100", "ray throughput")


def _beside_the_paper(curves: Curves) -> list[str]:
    """The paper's figures and ours for its greedy mode."""
    lines = [
        "| | latency | TTFT | goodput | largest N at 70 %, to Ray Serve's |",
        "|---|---|---|---|---|",
        f"| the paper, greedy | {' | '.join(PAPER['greedy'])} |",
    ]
    for system in curves.systems[1:]:
        for workflow in curves.workflows:
            most = saturation(workflow)
            changes = [
                f"{100 * (curves.ratio(system, 'ray', workflow, metric, bound)[0] - 1):+.1f} %"
                for metric, bound in (("latency_mean_s", most), ("ttft_mean_s", most), ("goodput", 1e9))
            ]
            largest = [curves.shown_n(name, workflow) for name in (system, "ray")]
            lines.append(f"| here, {system}, {workflow} | {' | '.join(changes)} | {' to '.join(largest)} |")
    return lines


def simulated(curves: Curves, lengths: Any, plus_s: float) -> list[dict[str, Any]]:
    """The same cells by the simulator."""
    made = []
    for system in curves.systems:
        for workflow in curves.workflows:
            for count in curves.counts:
                for seed in curves.seeds[workflow]:
                    cell = Cell(workflow, count, seed, lengths, plus_s)  # type: ignore[arg-type]
                    scenario = scenario_of(cell)
                    policy = STANDS_FOR.get(system, system)
                    got = measure(scenario, World(scenario, policy, Workload(scenario, seed).runs(), seed).play())
                    made.append(
                        {
                            "system": system, "workflow": workflow, "count": count, "seed": seed,
                            "goodput": got.goodput, "ttft_mean_s": got.ttft_mean_s,
                            "latency_mean_s": got.latency_mean_s, "fast_share": got.share[FAST],
                        }
                    )  # fmt: skip
    return made


# -- tables ------------------------------------------------------------------------------------------


def _percent(ratio: Estimate, seeds: list[int]) -> str:
    value, low, high = (100.0 * (part - 1.0) for part in ratio)
    return f"{value:+.0f} %{within(low, high, '+.0f', seeds)}"


def _cell_table(curves: Curves, other: Curves, workflow: str, metric: str, title: str) -> list[str]:
    systems, most = curves.systems, 1.0 if metric in SHARES else inf
    lines = [
        f"### {workflow}: {title}",
        "",
        "| N | " + " | ".join(f"{system} | simulated" for system in systems) + " |",
        "|---" * (2 * len(systems) + 1) + "|",
    ]
    for count in curves.counts:
        row = [str(count)]
        for system in systems:
            got = interval(curves.over_seeds(system, workflow, count, metric), 0.0, most)
            row += [f"{got.mean:.2f}{within(got.low, got.high, '.2f', curves.seeds[workflow])}"]
            row += [f"{fmean(other.over_seeds(system, workflow, count, metric)):.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def _comparison(curves: Curves, base: str) -> list[str]:
    lines = [
        f"| workflow | system | mean latency, N <= {LIGHT} | below saturation | mean TTFT, N <= {LIGHT} "
        "| below saturation | largest N at 70 % | its ratio | goodput over N | its ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for workflow in curves.workflows:
        bounds, seeds = (LIGHT, saturation(workflow)), curves.seeds[workflow]
        for system in curves.systems:
            row = [workflow, system]
            for metric in ("latency_mean_s", "ttft_mean_s"):
                for most in bounds:
                    if system == base:
                        row.append(f"{median(curves.average(system, workflow, metric, most)):.2f} s")
                    else:
                        row.append(_percent(curves.ratio(system, base, workflow, metric, most), seeds))
            row.append(curves.shown_n(system, workflow))
            times, low, high = curves.n_ratio(system, base, workflow)
            row.append("1" if system == base else f"{times:.2f}{within(low, high, '.2f', seeds)}")
            row.append(f"{fmean(curves.average(system, workflow, 'goodput')):.3f}")
            row.append("1" if system == base else _percent(curves.ratio(system, base, workflow, "goodput"), seeds))
            lines.append("| " + " | ".join(row) + " |")
    return lines


def _seconds(curves: Curves, metric: str, most: float, system: str, workflow: str) -> str:
    return f"{fmean(curves.average(system, workflow, metric, most)):.2f} s"


def other_settings(cells: list[dict[str, Any]], path: Path) -> list[str]:
    """Ray Serve's other settings and ours, over the seeds that all of them have; nothing where none was played."""
    played = {cell["system"] for cell in cells} & {*OTHERS}
    curves = Curves(cells, [name for name in (*HEADLINE, *OTHERS) if name in {*HEADLINE, *played}])
    if not played or not curves.workflows:
        return []
    best = []
    for workflow, seeds in curves.seeds.items():
        of_ray = [name for name in curves.systems if name.startswith("ray")]
        goodput = {name: fmean(curves.average(name, workflow, "goodput")) for name in of_ray}
        name = max(of_ray, key=goodput.__getitem__)
        ours = _percent(curves.ratio("slack", name, workflow, "goodput"), seeds)
        times, low, high = curves.n_ratio("slack", name, workflow)
        best.append(
            f"{workflow}: `{name}` with {goodput[name]:.3f} in time over N, `slack` {ours} beside it, its largest N "
            f"{times:.2f}{within(low, high, '.2f', seeds)} times as large"
        )
    return [
        "## Other settings of Ray Serve, and other policies",
        "",
        "`ray local` prefers replicas of the caller's node, `ray ongoing N` gives a replica up to N requests (5 is its "
        "default), `ray throughput` is `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`. Seeds "
        + ", ".join(f"{workflow} {_listed(seeds)}" for workflow, seeds in curves.seeds.items())
        + f". {out_of_turn(path, curves.systems)}",
        "",
        *_comparison(curves, "ray"),
        "",
        f"Ray Serve's best setting: {'; '.join(best)}.",
        "",
    ]


def _listed(seeds: list[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def out_of_turn(path: Path, systems: Collection[str] = HEADLINE) -> str:
    """Say in a sentence which of these systems were played in another run than others; empty if all took turns."""
    runs: dict[str, set[int]] = defaultdict(set)
    run = 0
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        run += "environment" in line
        if "count" in line and not line.get("discarded") and line["system"] in systems:
            runs[line["system"]].add(run)
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for system, played in runs.items():
        groups[tuple(sorted(played))].append(f"`{system}`")
    if len(groups) < 2:
        return ""
    return "Not played in turns: first " + "; in a later run ".join(
        " and ".join(names) for _, names in sorted(groups.items())
    ) + "."  # fmt: skip


def headline(curves: Curves, told: str = "") -> str:
    """The table of the README; `told` is what else a reader should know."""
    lines = [
        "| | workflow | Ray Serve | `greedy` | `slack` |",
        "|---|---|---|---|---|",
    ]
    rows: list[tuple[str, Callable[[str, str], str]]] = [
        ("largest N with 70 % in time", curves.shown_n),
        ("share in time, mean over N", lambda s, w: f"{fmean(curves.average(s, w, 'goodput')):.2f}"),
    ]
    for metric, title in (("ttft_mean_s", "time to first token"), ("latency_mean_s", "latency")):
        rows += [
            (f"mean {title}, N = 5 and 8", partial(_seconds, curves, metric, LIGHT)),
            (f"mean {title}, N = 5 to 30", partial(_seconds, curves, metric, 30)),
        ]
    for title, cell in rows:
        for workflow in curves.workflows:
            lines.append(f"| {title} | {workflow} | " + " | ".join(cell(s, workflow) for s in curves.systems) + " |")
    seeds = min(len(seeds) for seeds in curves.seeds.values())
    lines += [
        "",
        f"Means over {seeds} seeds; `python -m benchmarks.paper`, all loads and intervals in",
        "[results](benchmarks/results/paper.md), how it was measured in [benchmarks](benchmarks/README.md).",
        *([told] if told else []),
    ]
    return "\n".join(lines)


def readme_with(text: str, table: str) -> str:
    """Return a README with the headline between its two marks."""
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not found.search(text):
        raise ValueError(f"README.md has no place for the headline: {BEGIN} ... {END}")
    return found.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text)


def _discarded(path: Path) -> list[str]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cells = [line for line in lines if "count" in line]
    by_system: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        by_system[cell["system"]].append(cell)
    out = [
        "| system | cells kept | discarded | engines late, p50 | p95 (worst cell) | stall of the machine, worst kept |",
        "|---|---|---|---|---|---|",
    ]
    for system, mine in by_system.items():
        good = [cell for cell in mine if not cell.get("discarded")]
        if good:
            out.append(
                f"| {system} | {len(good)} | {len(mine) - len(good)} | "
                f"{1e3 * median(cell['late_p50_s'] for cell in good):.1f} ms | "
                f"{1e3 * max(cell['late_p95_s'] for cell in good):.0f} ms | "
                f"{1e3 * max(cell['machine_stall_s'] for cell in good):.0f} ms |"
            )
    return out


def _gaps(curves: Curves, other: Curves, system: str, workflow: str) -> list[float]:
    """Goodput, simulated less measured, in points, at each load."""

    def mean(of: Curves, count: int) -> float:
        return fmean(of.over_seeds(system, workflow, count, "goodput"))

    return [100.0 * (mean(other, count) - mean(curves, count)) for count in curves.counts]


def make(path: Path, *, write_results: bool, plays: bool = True) -> str:
    """Return all tables as Markdown; write them, the plot and the figures beside the cells.

    Without `plays` the simulator's cells are the kept ones.
    """
    from benchmarks.support.paper_picture import draw

    cells = kept(path, "deterministic", 1.0)
    present = {cell["system"] for cell in cells}
    systems = [name for name in HEADLINE if name in present]
    curves = Curves(cells, systems)
    if not curves.workflows:
        return "no cell that all systems have"
    made = simulated(curves, "deterministic", 1.0) if plays else kept_result("paper")["simulated_cells"]
    other = Curves(made, systems)
    where, ray = _played_with(path, systems)
    seeds = {workflow: len(found) for workflow, found in curves.seeds.items()}
    lines = [
        "# The paper's experiment: Ray Serve and dask-fmware on the same emulated cards",
        "",
        f"`{where['command']}` on {where['processor']}, {where['cores']} cores, Python {where['python']}, Ray {ray}, "
        f"distributed {where['versions']['distributed']}; seeds from {where['seed']}: "
        + ", ".join(f"{workflow} {count}" for workflow, count in seeds.items())
        + ". Serial engines, deterministic lengths, N runs within 10 s, SLO = unloaded TTFT + 1 s. In parentheses: "
        "95 % intervals over seeds, of means those of Student's t, of medians and ratios percentile bootstraps.",
        *(["", told] if (told := out_of_turn(path)) else []),
        "",
        "## Against Ray Serve, real systems",
        "",
        "Medians over seeds of paired ratios. Saturation: "
        + ", ".join(f"{workflow} {saturation(workflow):.1f}" for workflow in curves.workflows)
        + " runs.",
        "",
        *_comparison(curves, "ray"),
        "",
        "## Beside the paper's own figures",
        "",
        "Its router met the Ray Serve of 2024 on an A100 and an A40; ours the present one on emulated cards. Latency "
        "and TTFT here are over the loads below saturation, goodput over all.",
        "",
        *_beside_the_paper(curves),
        "",
        "## The same by the simulator",
        "",
        "Ray Serve is the policy `power_of_two` there.",
        "",
        *_comparison(other, "ray"),
        "",
    ]
    gaps = {(system, workflow): _gaps(curves, other, system, workflow) for system in systems for workflow in seeds}
    lines += [
        "Goodput, simulated less measured, in points: "
        + "; ".join(
            f"{system} {workflow} {fmean(gap):+.1f} (cells {min(gap):+.0f} to {max(gap):+.0f})"
            for (system, workflow), gap in gaps.items()
        )
        + ".",
        "",
        "## Every load",
        "",
    ]
    for metric, title in (
        ("goodput", "goodput"),
        ("ttft_mean_s", "mean TTFT, s"),
        ("latency_mean_s", "mean latency, s"),
        ("fast_share", "share of executions on the fast card"),
    ):
        for workflow in curves.workflows:
            lines += _cell_table(curves, other, workflow, metric, title)
    lines += other_settings(cells, path)
    lines += ["## Timing of the engines", "", *_discarded(path), ""]
    text = "\n".join(lines)
    if write_results:
        found = {"environment": where, "ray": ray, "simulated": simulated_rows(other), "simulated_cells": made}
        write("paper", found, text)
        draw(curves, other, RESULTS / "paper.png")
    return text


def _played_with(path: Path, systems: Collection[str]) -> tuple[dict[str, Any], str]:
    """Where these systems were played last, and the version of Ray."""
    now: dict[str, Any] = {}
    where, ray = now, "?"
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        now, ray = line.get("environment", now), line.get("ray", ray)
        where = now if line.get("system") in systems else where
    return where, ray


def simulated_rows(curves: Curves) -> dict[str, Any]:
    """Means of the simulated cells, by system and workflow."""
    return {
        system: {
            workflow: {
                metric: [fmean(curves.over_seeds(system, workflow, count, metric)) for count in curves.counts]
                for metric in METRICS
            }
            for workflow in curves.workflows
        }
        for system in curves.systems
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the headline into README.md")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    print(make(CELLS, write_results=True, plays=not asked.table))
    if asked.readme:
        curves = Curves(kept(CELLS, "deterministic", 1.0), HEADLINE)
        table = headline(curves, out_of_turn(CELLS))
        README.write_text(readme_with(README.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
