"""The paper's experiment on real systems: Ray Serve and dask-fmware on the same emulated cards, in turn.

    python -m benchmarks.paper --ray-env RAY_ENV [--quick | --full] [--seeds 5]

For each seed each system is started, given warm-up runs, and then every cell: a workflow and a number of runs within
ten seconds. One system is up at a time. Cells are kept in `results/paper_cells.jsonl` as they end, and a command that
is started again goes on where it was; the tables are made from there (`python -m benchmarks.paper_tables`). A cell
during which the machine stalled is discarded, noted and repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from rich.progress import Progress

from benchmarks import paper_tables
from benchmarks.paper_tables import HEADLINE, OTHERS
from benchmarks.support.environment import environment
from benchmarks.support.systems import SYSTEMS, Running, System, card_server, ray_python, run_cell, running
from benchmarks.support.trial import Cell, plan

__all__ = ["is_stalled"]

WORKFLOWS = ("rag", "shopping")
COUNTS = (5, 8, 10, 12, 15, 20, 30)
FIRST_SEED = 1000
WARM_SEED = 90_000  # of runs before the first cell, that no result holds
WARM_COUNT = 10
LATE_S, STALL_S = 0.015, 0.2  # 95th percentile of the engines' lateness, worst stall: above these a cell is discarded
TRIES = 3


@dataclass(frozen=True, slots=True)
class Suite:
    """Systems and the cells that each gets, for each seed."""

    systems: tuple[str, ...]
    cells: tuple[Cell, ...]  # with seed 0, to be replaced


def suites(asked: argparse.Namespace) -> list[Suite]:
    """What a form of the command runs."""
    counts = (8,) if asked.quick else COUNTS
    headline = tuple(Cell(workflow, count, 0) for workflow in WORKFLOWS for count in counts)
    made = [Suite(HEADLINE, headline)]
    if asked.full:
        made.append(Suite(OTHERS, headline))
        for lengths, plus_s in (("drawn", 1.0), ("deterministic", 0.5), ("deterministic", 2.0)):
            cells = tuple(Cell(cell.workflow, cell.count, 0, lengths, plus_s) for cell in headline)
            made.append(Suite(HEADLINE, cells))
    return made


def is_stalled(result: dict[str, Any]) -> str:
    """Why a cell is discarded; empty if it is kept."""
    if result["machine_stall_s"] > STALL_S:
        return f"the machine stalled for {result['machine_stall_s']:.2f} s"
    if (result["late_p95_s"] or 0.0) > LATE_S:
        return f"engines were late by {result['late_p95_s']:.3f} s (95th percentile)"
    return ""


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a cell the same cell."""
    return tuple(cell[name] for name in ("system", "workflow", "count", "seed", "lengths", "plus_s"))


def remaining(asked: argparse.Namespace, path: Path) -> Iterator[tuple[System, int, list[Cell]]]:
    """Yield each system with a seed and the cells of it that are not there yet, in the order in which they run."""
    done = {key(cell) for cell in paper_tables.kept(path)}
    for suite in suites(asked):
        for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds):
            cells = [replace(cell, seed=seed) for cell in suite.cells]
            random.Random(seed).shuffle(cells)  # alike for all systems
            for name in suite.systems:
                left = [cell for cell in cells if key({"system": name, **asdict(cell)}) not in done]
                if left:
                    yield SYSTEMS[name], seed, left


async def work(asked: argparse.Namespace, path: Path, where: dict[str, Any]) -> None:
    """Run what is not there yet."""
    python = ray_python(asked.ray_env)
    todo = list(remaining(asked, path))
    with path.open("a", encoding="utf-8") as out, Progress() as progress:
        bar = progress.add_task("cells", total=sum(len(cells) for _, _, cells in todo))
        _keep(out, {"environment": where})
        async with card_server() as socket:
            for system, seed, cells in todo:
                async with running(system, socket, python) as one:
                    _keep(out, {"started": system.name, **one.ready})
                    warm = 4 if asked.quick else WARM_COUNT
                    await one.run([run for name in WORKFLOWS for run in plan(Cell(name, warm, WARM_SEED + seed))])
                    for cell in cells:
                        progress.update(bar, description=f"{system.name}, {cell.workflow}, N={cell.count}, seed {seed}")
                        if await tried(one, cell, out):
                            progress.advance(bar)
                        else:
                            progress.console.print(f"{system.name}, {cell}: given up for now, the machine is too busy")


async def tried(one: Running, cell: Cell, out: TextIO) -> bool:
    """Run a cell until the machine does not stall meanwhile; False if it always does."""
    for _ in range(TRIES):
        result = await run_cell(one, cell)
        why = is_stalled(result)
        _keep(out, _summary(result, discarded=why) if why else result)
        if not why:
            return True
    return False


def _summary(result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("runs", "calls")} | more


def _keep(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray-env", metavar="FOLDER", help="virtual environment with Ray (or the variable RAY_ENV)")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 1000 up (default 5)")
    parser.add_argument("--quick", action="store_true", help="one seed, one load, nothing is kept; under 5 minutes")
    parser.add_argument("--full", action="store_true", help="also other settings of Ray, lengths and objectives")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the systems too
    where = environment(seed=FIRST_SEED)
    with TemporaryDirectory(prefix="paper-") as passing:
        path = paper_tables.CELLS
        if asked.quick:
            asked.seeds, path = 1, Path(passing) / "cells.jsonl"
        asyncio.run(work(asked, path, where))
        print(paper_tables.make(path, write_results=not asked.quick))


if __name__ == "__main__":
    main()
