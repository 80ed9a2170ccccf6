"""What tests of engines ask, and what they wait for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from dask_fmware.model.engine import Delta, Engine, Request, Sampling, Usage

__all__ = [
    "LONG",
    "WAIT_S",
    "ask",
    "collect",
    "is_idle",
    "native_threads",
    "settled_threads",
    "text_of",
    "until",
    "usage_of",
]

WAIT_S = 30.0  # an upper bound on waits that usually take milliseconds; no test measures time
LONG = 8000  # tokens: more than any engine makes before a test has seen what it waits for


def ask(
    request_id: str = "r", max_tokens: int = 12, prompt: str | None = "Tell me about the sea", **fields: Any
) -> Request:
    """A request that is the same every time: seeded unless told otherwise."""
    if "messages" in fields:
        prompt = None
    return Request(request_id, max_tokens, prompt=prompt, **{"sampling": Sampling(seed=7), **fields})


async def collect(engine: Engine, request: Request) -> list[Delta]:
    """All deltas of one request, within a deadline."""
    async with asyncio.timeout(WAIT_S):
        return [delta async for delta in engine.generate(request)]


def text_of(deltas: list[Delta]) -> str:
    """The whole text."""
    return "".join(delta.text for delta in deltas)


def usage_of(deltas: list[Delta]) -> Usage:
    """What the last of them says was taken."""
    usage = deltas[-1].usage
    assert usage is not None, "the last delta has no usage"
    return usage


def is_idle(engine: Engine) -> bool:
    """Whether nothing runs or waits."""
    return (engine.state().running, engine.state().waiting) == (0, 0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds; for state that no event announces."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - it is polled because nothing tells
            await asyncio.sleep(0.001)


def native_threads() -> set[str]:
    """Threads of this process, those of llama.cpp too."""
    return set(os.listdir("/proc/self/task"))


def settled_threads(at_most: int, patience_s: float = WAIT_S) -> int:
    """Number of threads once those that are ending have ended."""
    deadline = time.monotonic() + patience_s
    while len(native_threads()) > at_most and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(native_threads())
