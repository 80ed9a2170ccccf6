"""Ten minutes at twice what the cards can do, on real systems: who keeps objectives, and is all the work done.

    python -m benchmarks.overload --ray-env RAY_ENV [--seeds 3] [--minutes 10] [--time-scale 1]

A seed takes 50 minutes for all systems. With `--time-scale 0.2` engines, plain code, arrivals and objectives all play
five times as fast, so what a system itself costs weighs five times as much. The run is over when the last answer is
complete; every run counts. What was played is kept and not played again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from statistics import fmean
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.support.card_server import ask
from benchmarks.support.curves import saturation
from benchmarks.support.environment import RESULTS, environment, write
from benchmarks.support.systems import SYSTEMS, Running, card_server, ray_python, running
from benchmarks.support.trial import FAST, WINDOW_S, Cell, Clock, PlannedRun, planned, scenario_of
from benchmarks.support.within import within
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.scenario import PoissonArrivals
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

__all__ = ["drawn", "summary"]

CELLS = RESULTS / "overload_cells.jsonl"
COMPARED = ("ray", "ray queued 5", "slack")
NEEDED = ("ray", "slack")  # for a table
POLICIES = {"ray": "power_of_two", "slack": "slack"}
FIRST_SEED, WARM_SEED = 1000, 90_000


def drawn(seed: int, load: float, minutes: float, time_scale: float) -> list[PlannedRun]:
    """Draw the runs: RAG at `load` times saturation."""
    scenario = scenario_of(Cell("rag", 1, seed))
    arrivals = PoissonArrivals(kind="poisson", rate=load * saturation("rag") / WINDOW_S, duration_s=60.0 * minutes)
    scenario = scenario.model_copy(update={"arrivals": arrivals})
    return [planned(scenario, run, f"o{seed}", time_scale) for run in Workload(scenario, seed).runs()]


def simulated(policy: str, seed: int, load: float, minutes: float) -> float:
    """Goodput of the same by the simulator."""
    arrivals = PoissonArrivals(kind="poisson", rate=load * saturation("rag") / WINDOW_S, duration_s=60.0 * minutes)
    scenario = scenario_of(Cell("rag", 1, seed)).model_copy(update={"arrivals": arrivals})
    outcomes = World(scenario, policy, Workload(scenario, seed).runs(), seed).play()
    return sum(outcome.met for outcome in outcomes) / len(outcomes)


def summary(runs: list[PlannedRun], seen: list[dict[str, Any]], record: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept of one drain."""
    slo_s = {run.run_id: run.ttft_slo_s for run in runs}
    calls = {call.name: call for run in runs for call in run.calls}
    late_s = [t["ended"] - t["began"] - calls[t["call"]].alone_s[t["card"]] for t in record if t["call"] in calls]
    began = min((t["asked"] for t in record), default=0.0)
    until = began + max(run.arrival_s for run in runs)
    in_time = [view for view in seen if view["first_s"] is not None and view["first_s"] <= slo_s[view["run_id"]]]
    kept = {view["run_id"] for view in in_time}
    kept_calls = {call.name for run in runs if run.run_id in kept for call in run.calls}
    return {
        "runs": len(runs),
        "goodput": len(in_time) / len(runs),
        "finished": sum(view["done_s"] is not None for view in seen),
        "shed": sum("BackPressure" in view["error"] for view in seen),
        "failed": sum(bool(view["error"]) and "BackPressure" not in view["error"] for view in seen),
        "calls": len(record),
        "calls_planned": len(calls),
        "fast_share": sum(t["card"] == FAST for t in record) / max(len(record), 1),
        "busy": busy(record, began, until),
        "busy_in_time": busy([t for t in record if t["call"] in kept_calls], began, until),
        "drained_s": max((t["ended"] for t in record), default=0.0) - began,
        "late_p95_s": float(np.percentile(late_s, 95)) if late_s else None,
        "submitted_late_max_s": max(view["submitted_s"] for view in seen),
    }


def busy(turns: list[dict[str, Any]], began: float, until: float) -> dict[str, float]:
    """Share of a time in which each card is busy with these calls."""
    spent = dict.fromkeys(sorted({turn["card"] for turn in turns}), 0.0)
    for turn in turns:
        spent[turn["card"]] += max(min(turn["ended"], until) - max(turn["began"], began), 0.0)
    return {card: seconds / (until - began) for card, seconds in spent.items()}


async def one(system: Running, runs: list[PlannedRun]) -> dict[str, Any]:
    """Play one load on a system."""
    await ask(system.socket)
    clock = Clock()
    watching = asyncio.create_task(clock.watch())
    last_s = max(run.arrival_s for run in runs)
    seen = await system.run(runs, patience_s=60.0 + 6.0 * last_s)
    watching.cancel()
    return summary(runs, seen["seen"], await ask(system.socket)) | {"machine_stall_s": clock.worst_s}


async def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not kept yet."""
    python = ray_python(asked.ray_env)
    setting = {"load": asked.load, "minutes": asked.minutes, "time_scale": asked.time_scale}
    lines = [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []
    found = [line for line in lines if all(line.get(name) == value for name, value in setting.items())]
    done = {(line["system"], line["seed"]) for line in found}
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    todo = [(seed, name) for seed in seeds for name in asked.systems]
    async with card_server() as socket:
        for seed, name in track([at for at in todo if (at[1], at[0]) not in done], description="drains"):
            runs = drawn(seed, asked.load, asked.minutes, asked.time_scale)
            async with running(SYSTEMS[name], socket, python, "--time-scale", str(asked.time_scale)) as system:
                await system.run(_warm(seed, asked.time_scale))
                result = {"system": name, "seed": seed, **setting, **await one(system, runs)}
            found.append(result)
            with CELLS.open("a", encoding="utf-8") as out:
                out.write(json.dumps(result) + "\n")
    return found


def _warm(seed: int, time_scale: float) -> list[PlannedRun]:
    scenario = scenario_of(Cell("rag", 10, 0))
    return [planned(scenario, run, "w", time_scale) for run in Workload(scenario, WARM_SEED + seed).runs()]


def table(found: list[dict[str, Any]], asked: argparse.Namespace) -> str:
    """Markdown."""
    by = _by_system(found)
    seeds = _seeds(by)
    lines = [
        "| system | in time, of all runs | slack above it | finished | shed | failed | calls made, of planned | "
        "cards busy while runs come, with runs in time | all done after | engines late, p95 | simulated |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in by:
        mine = [by[name][seed] for seed in seeds]
        above = interval([by["slack"][seed]["goodput"] - by[name][seed]["goodput"] for seed in seeds])
        policy = POLICIES.get(name)
        by_simulator = (
            f"{fmean(simulated(policy, seed, asked.load, asked.minutes) for seed in seeds):.3f}" if policy else "-"
        )
        goodput = interval([line["goodput"] for line in mine], 0.0, 1.0)
        lines.append(
            f"| {name} | {goodput.mean:.3f}{within(goodput.low, goodput.high, '.3f', seeds)} | "
            + (f"{above.mean:+.3f}{within(above.low, above.high, '+.3f', seeds)}" if name != "slack" else "")
            + f" | {fmean(line['finished'] / line['runs'] for line in mine):.3f}"
            f" | {fmean(line['shed'] / line['runs'] for line in mine):.3f}"
            f" | {fmean(line['failed'] / line['runs'] for line in mine):.3f}"
            f" | {fmean(line['calls'] / line['calls_planned'] for line in mine):.3f}"
            f" | {_busy(mine, 'busy')}, {_busy(mine, 'busy_in_time')}"
            f" | {fmean(line['drained_s'] for line in mine) / asked.time_scale:.0f} s"
            f" | {1e3 * fmean(line['late_p95_s'] for line in mine):.1f} ms | {by_simulator} |"
        )
    return "\n".join(lines)


def _by_system(found: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Cells of each system that has some, by seed."""
    by = {name: {line["seed"]: line for line in found if line["system"] == name} for name in COMPARED}
    return {name: lines for name, lines in by.items() if lines}


def _seeds(by: dict[str, dict[int, dict[str, Any]]]) -> list[int]:
    """Those that all systems have."""
    return sorted(set.intersection(*(set(lines) for lines in by.values())))


def seeds_told(found: list[dict[str, Any]]) -> str:
    """Over what the figures are, in words."""
    return "Means over seeds, 95 % intervals." if len(_seeds(_by_system(found))) > 1 else "One seed."


def _busy(lines: list[dict[str, Any]], what: str) -> str:
    """Mean shares of the cards, the fast one first; cells that were kept before these were have none."""
    lines = [line for line in lines if what in line]
    cards = sorted({card for line in lines for card in line[what]}, key=lambda card: card != FAST)
    return " and ".join(f"{fmean(line[what].get(card, 0.0) for line in lines):.2f}" for card in cards) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray-env", metavar="FOLDER", help="virtual environment with Ray (or the variable RAY_ENV)")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument(
        "--systems", nargs="+", choices=COMPARED, default=COMPARED, help="only these; the table waits for ray and slack"
    )
    parser.add_argument("--load", type=float, default=2.0, help="times saturation")
    parser.add_argument("--minutes", type=float, default=10.0, help="of arrivals, in the scenario's time")
    parser.add_argument("--time-scale", type=float, default=1.0, help="seconds on the clock for one of the scenario")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked))
    where = environment(seed=FIRST_SEED)
    if missing := [name for name in NEEDED if name not in {line["system"] for line in found}]:
        print(f"kept; the table waits for {', '.join(missing)}")
        return
    text = "\n".join(
        [
            f"# {asked.minutes:g} minutes at {asked.load:g} times saturation, RAG, real systems",
            "",
            f"`{where['command']}` on {where['processor']}, {where['cores']} cores; one second of the scenario is "
            f"{asked.time_scale:g} s on the clock. {seeds_told(found)} `ray queued 5` sheds by "
            "`max_queued_requests=5`.",
            "",
            table(found, asked),
        ]
    )
    print(text)
    name = "overload" if asked.time_scale == 1.0 else f"overload_{asked.time_scale:g}"
    write(name, {"environment": where, "cells": found}, text)


if __name__ == "__main__":
    main()
