"""For how long a caller waits for a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from numbers import Real
from typing import Any, TypeVar

__all__ = ["checked_timeout", "in_time"]

T = TypeVar("T")


def checked_timeout(timeout: Any, function: str) -> float | None:
    """Return the seconds that a caller was given to wait for; None to wait for as long as it takes."""
    if timeout is None or timeout == inf:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(f"fm.{function}: timeout={timeout!r} is no number of seconds; leave it out to wait for ever")
    seconds = float(timeout)
    if not seconds > 0:
        raise ValueError(f"fm.{function}: timeout={timeout!r} is not above 0 s; leave it out to wait for ever")
    return seconds


async def in_time(ask: Callable[[], Awaitable[T]], timeout: float | None, late: str) -> T:
    """Await an answer for so many seconds; beyond them it is cancelled, and a `TimeoutError` says what is late."""
    if timeout is None:
        return await ask()
    try:
        async with asyncio.timeout(timeout) as limit:
            return await ask()
    except TimeoutError:
        if not limit.expired():  # what a run raised
            raise
        raise TimeoutError(late) from None
