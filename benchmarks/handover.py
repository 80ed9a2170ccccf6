"""The hand-over gap: how long a slot stands empty between two calls, on real processes.

    python -m benchmarks.handover [--seconds 20] [--rounds 3]

A `LocalModelCluster` of emulated engines with more calls than slots at any time. Each engine writes down when its
requests come and end; the gap is from an end to the next coming. Calls that are bound when a slot is free are
compared with calls that are bound one ahead of attempts that are about to end, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import dask
import numpy as np
from distributed import Client

import dask_fmware as fm
from benchmarks.support.card_engine import planned_prompt
from benchmarks.support.environment import environment, write
from benchmarks.support.timed_engine import read_times
from dask_fmware.runtime.replicas import ahead

STEP_S = 0.01
WARM_S = 3.0  # in which the runtime learns how long calls and the way to them take
AHEAD = {"when a slot is free": False, "one ahead": True}


@dataclass(frozen=True)
class Setting:
    """Engines and calls."""

    replicas: int
    slots: int
    tokens: tuple[int, int]  # least and most of a call


SETTINGS = {
    "serial, 110 ms": Setting(2, 1, (11, 11)),
    "serial, 40 ms": Setting(2, 1, (4, 4)),
    "batch of 16, 480 ms": Setting(1, 16, (48, 48)),
    "serial, lengths unknown, 20 to 200 ms": Setting(2, 1, (2, 20)),
}

small = fm.Model("small")


@fm.workflow
def single(text):
    return small("{text}", name="call", text=text, max_tokens=64)


def deployment(setting: Setting, folder: str, policy: str) -> dict[str, Any]:
    law = {"w0": STEP_S, "w1": 0, "w2": 0, "w3": 0}
    return {
        "accelerators": {"card": {"cards": setting.replicas}},
        "models": {
            "small": {
                "engine": "timed",
                "slots": setting.slots,
                "context_tokens": 4096,
                "arguments": {"folder": folder, "law": law, "step_tokens": 65536, "prefix_cache_tokens": 0},
                "on": {"card": {"replicas": setting.replicas}},
            }
        },
        "light_workers": {"count": 1, "threads": 4},
        "router": {"policy": policy},
    }


@contextmanager
def binding(is_ahead: bool) -> Iterator[None]:
    """Let calls be bound ahead, or only when a slot is free."""
    before, ahead.LEAST_S = ahead.LEAST_S, ahead.LEAST_S if is_ahead else inf
    try:
        yield
    finally:
        ahead.LEAST_S = before


async def measure(setting: Setting, is_ahead: bool, policy: str, seconds: float) -> dict[str, float]:
    """Keep twice as many calls under way as there are slots, for a while."""
    with tempfile.TemporaryDirectory() as folder, binding(is_ahead):
        with dask.config.set({"distributed.worker.preload": ["benchmarks.support.timed_engine"]}):
            cluster = await fm.LocalModelCluster(
                deployment(setting, folder, policy), dashboard_address=None, asynchronous=True
            )
        async with cluster, Client(cluster, asynchronous=True, set_as_default=False) as client:
            await fm.wait_ready(client)
            begun, draws, number = monotonic(), random.Random(1), 0

            async def slot() -> None:
                nonlocal number
                while monotonic() - begun < WARM_S + seconds:
                    number += 1
                    prompt = planned_prompt(f"c{number}", 32, draws.randint(*setting.tokens))
                    await client.compute(single(text=prompt))

            await asyncio.gather(*(slot() for _ in range(2 * setting.slots * setting.replicas + 2)))
        return gaps(read_times(Path(folder)), setting.slots, begun + WARM_S, begun + WARM_S + seconds)


def gaps(times: list[list[tuple[float, float]]], slots: int, since: float, until: float) -> dict[str, float]:
    """Gaps of all engines between two moments, and how much of that time their slots were taken."""
    found: list[float] = []
    busy_s, most = 0.0, 0
    for engine in times:
        ends: deque[float] = deque()
        running = 0
        for at, is_end in sorted([(came, False) for came, _ in engine] + [(end, True) for _, end in engine]):
            running += -1 if is_end else 1
            most = max(most, running)
            if is_end:
                ends.append(at)
            elif ends and since <= at <= until:
                found.append(at - ends.popleft())
            elif ends:
                ends.popleft()
        busy_s += sum(max(min(end, until) - max(came, since), 0.0) for came, end in engine)
    p50, p90 = np.quantile(found, [0.5, 0.9])
    taken = busy_s / (len(times) * slots * (until - since))
    return {
        "p50_ms": 1e3 * float(p50),
        "p90_ms": 1e3 * float(p90),
        "taken": taken,
        "most": most / slots,
        "calls": len(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="in which both ways are measured in turns")
    parser.add_argument("--policy", default="slack")
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="left out: all of them")
    parser.add_argument("--quick", action="store_true", help="one round of 5 s; writes nothing")
    asked = parser.parse_args()
    rounds, seconds = (1, 5.0) if asked.quick else (asked.rounds, asked.seconds)
    cells: list[dict[str, Any]] = []
    for setting in asked.setting or SETTINGS:
        for _ in range(rounds):
            for way, is_ahead in AHEAD.items():
                found = asyncio.run(measure(SETTINGS[setting], is_ahead, asked.policy, seconds))
                cells.append({"setting": setting, "bound": way, **found})
                print(cells[-1], flush=True)
    where = environment(seed=1)
    text = table(cells, where)
    print(text)
    if not asked.quick:
        write("handover", {"environment": where, "cells": cells}, text)


def table(cells: list[dict[str, Any]], where: dict[str, Any]) -> str:
    """Markdown: medians over rounds."""
    rounds = max(Counter((cell["setting"], cell["bound"]) for cell in cells).values())
    of = "One round" if rounds == 1 else f"Medians over {rounds} rounds"
    lines = [
        "# The gap between two calls of a slot",
        "",
        f"`{where['command']}` on {where['processor']}, {where['cores']} cores. {of}.",
        "",
        "| engines | calls are bound | gap p50 | gap p90 | slots taken | most in an engine, of its slots | calls |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in dict.fromkeys(cell["setting"] for cell in cells):
        for way in AHEAD:
            mine = [cell for cell in cells if cell["setting"] == setting and cell["bound"] == way]
            middle = {name: float(np.median([cell[name] for cell in mine])) for name in ("p50_ms", "p90_ms", "taken")}
            lines.append(
                f"| {setting} | {way} | {middle['p50_ms']:.1f} ms | {middle['p90_ms']:.1f} ms | {middle['taken']:.1%} "
                f"| {max(cell['most'] for cell in mine):g} | {sum(cell['calls'] for cell in mine):,} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
