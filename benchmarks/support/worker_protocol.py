"""A system under test as a process: lines of JSON in, lines of JSON out.

The first line out says ``{"ready": ...}``; each line in is a list of runs, and the line out what was seen of them.
So systems live in environments of their own and are driven by the same loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from benchmarks.support.trial import PlannedCall, PlannedRun, drive

__all__ = ["answer_on", "reserve_stdout", "serve"]


def reserve_stdout() -> int:
    """Return a descriptor of standard output for answers; whatever else is printed goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def answer_on(descriptor: int, message: dict[str, Any]) -> None:
    """Write one line."""
    os.write(descriptor, json.dumps(message).encode() + b"\n")


def _read(line: str) -> list[PlannedRun]:
    return [PlannedRun(**{**run, "calls": [PlannedCall(**call) for call in run["calls"]]}) for run in json.loads(line)]


async def serve(descriptor: int, start: Callable[[PlannedRun], AsyncIterator[str]], ready: dict[str, Any]) -> None:
    """Answer until standard input ends."""
    answer_on(descriptor, {"ready": ready})
    while line := await asyncio.to_thread(sys.stdin.readline):
        seen, stall_s = await drive(_read(line), start)
        answer_on(descriptor, {"seen": [one.wire() for one in seen], "stall_s": stall_s})
