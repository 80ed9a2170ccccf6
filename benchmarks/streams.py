"""What our way to write streams of messages is worth: empty calls with it and with Dask's own, in turns.

    python -m benchmarks.streams [--turns 30]

Two clusters are up at once, each with its caller (a scheduler, two replicas that answer at once and a light worker),
and are asked in turns. Both pause for 50 us after a batch. Reported are medians, and medians of the ratios in a turn
with their 95 % interval (bootstrap over turns).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from distributed import Client
from rich.progress import track
from scipy.stats import bootstrap

import dask_fmware as fm
from benchmarks.support.closed_loop import measure
from benchmarks.support.dask_empty import served
from benchmarks.support.empty_calls import chain, single
from benchmarks.support.environment import environment, write

__all__ = ["table"]

WAYS = {"Dask's": ("benchmarks.support.stock_streams",), "ours": ()}
SECONDS = 0.3  # of each closed loop
REPEATS = 40  # calls, and chains, one after the other


async def answer(address: str) -> None:
    """Measure once for each line of standard input, and print what was found."""
    async with Client(address, asynchronous=True, set_as_default=False) as client:
        await fm.wait_ready(client)
        session = fm.Session(client)

        async def run(workflow: Any) -> None:
            await session.run(workflow(x="x"))

        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(lambda: run(single), lambda: run(chain), REPEATS, SECONDS)), flush=True)


@contextmanager
def asked(way: str) -> Iterator[Any]:
    """A cluster and its caller in processes of their own; yields what measures them once."""
    command = [sys.executable, "-m", "benchmarks.streams", "--be", way]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, of = process.stdin, process.stdout

        def ask() -> dict[str, float]:
            to.write("\n")
            to.flush()
            found: dict[str, float] = json.loads(of.readline())
            return found

        yield ask


def table(turns: list[dict[str, dict[str, float]]]) -> str:
    """Medians over turns, and of ratios, as Markdown."""
    lines = ["| | Dask's | ours | ours / Dask's | 95 % interval |", "|---|---|---|---|---|"]
    for figure in turns[0]["ours"]:
        stock, ours = ([turn[way][figure] for turn in turns] for way in WAYS)
        ratios = [b / a for a, b in zip(stock, ours, strict=True)]
        low, high = bootstrap([ratios], median, method="percentile", vectorized=False, rng=0).confidence_interval
        lines.append(
            f"| {figure} | {median(stock):.4g} | {median(ours):.4g} | {median(ratios):.2f} | {low:.2f} to {high:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="two turns; nothing is written")
    parser.add_argument("--be", choices=list(WAYS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be is not None:
        for module in WAYS[given.be]:
            importlib.import_module(module)
        with served(*WAYS[given.be]) as (_, address):
            asyncio.run(answer(address))
        return
    turns = []
    with ExitStack() as stack:
        ways = {way: stack.enter_context(asked(way)) for way in WAYS}
        for n in track(range(2 if given.quick else given.turns), description="turns"):
            order = list(WAYS) if n % 2 else list(reversed(WAYS))
            turns.append({way: ways[way]() for way in order})
    made = table(turns)
    print(made)
    if not given.quick:
        where = environment()
        note = (
            f"`{where['command']}`, {where['processor']}, {where['cores']} cores, Python {where['python']}, "
            f"distributed {where['versions']['distributed']}."
        )
        write("streams", {"environment": where, "turns": turns}, f"{made}\n\n{note}")


if __name__ == "__main__":
    main()
