"""What an empty call costs a system: latencies, throughput, memory of its control plane. It knows no system."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any

import numpy as np
import psutil

__all__ = ["measure", "memory_mb"]

CONCURRENCY = 32
Call = Callable[[], Awaitable[Any]]


async def measure(single: Call, chain: Call, repeats: int, seconds: float) -> dict[str, float]:
    """Time calls one after the other, and many at once in a closed loop.

    Parameters
    ----------
    single
        Makes one call and waits for it.
    chain
        Makes three calls, each on the result of the one before.
    repeats
        Calls, and chains, one after the other.
    seconds
        Of each of three closed loops with 32 at once; the best counts.
    """
    await _sequence(single, 30)
    await _sequence(chain, 20)
    await _per_second(single, 0.5)
    found: dict[str, float] = {}
    for name, call in (("call", single), ("chain of 3", chain)):
        spent_s = await _sequence(call, repeats)
        for q in (50, 99):
            found[f"{name}, p{q} ms"] = 1e3 * float(np.percentile(spent_s, q))
    found["calls/s at 32"] = max([await _per_second(single, seconds) for _ in range(3)])
    found["chains/s at 32"] = max([await _per_second(chain, seconds) for _ in range(3)])
    return found


async def _sequence(call: Call, count: int) -> list[float]:
    spent_s = []
    for _ in range(count):
        start = perf_counter()
        await call()
        spent_s.append(perf_counter() - start)
    return spent_s


async def _per_second(call: Call, seconds: float) -> float:
    done, end = 0, perf_counter() + seconds

    async def one() -> None:
        nonlocal done
        while perf_counter() < end:
            await call()
            done += 1

    start = perf_counter()
    await asyncio.gather(*(one() for _ in range(CONCURRENCY)))
    return done / (perf_counter() - start)


def memory_mb(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """Memory of each process, pages that several share counted in parts (PSS); by command."""
    found: dict[str, float] = {}
    for process in processes:
        try:
            command = process.cmdline()
            name = next((part for part in command if part.startswith("ray::")), "") or " ".join(
                part.rsplit("/", 1)[-1] for part in command[:3]
            )
            found[f"{name[:60]} ({process.pid})"] = process.memory_full_info().pss / 2**20
        except psutil.NoSuchProcess:
            continue
    return found
