"""Engines that are silent under a call: when that is said, and when it is enough.

Only time in which this process ran counts. A worker that was stopped for a while (SIGSTOP, a frozen container, a
virtual machine that moved, a library that kept the interpreter) finds its timers overdue and no token there; its
engine is not to blame. So silence is counted in ticks, and a stop of any length is one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dask_fmware.errors import EngineStalledError
from dask_fmware.model.messages import Overdue

__all__ = ["bounded_silence", "told_when_overdue"]

TICKS = 8  # for one bound, which is therefore exact to an eighth


@asynccontextmanager
async def bounded_silence(stall_s: float, signs: Callable[[], int], where: str) -> AsyncIterator[None]:
    """Cancel what runs inside when the engine has been silent for too long.

    Parameters
    ----------
    stall_s
        Seconds of silence; 0 is no bound.
    signs
        Signs of life so far: a number that grows with each.
    where
        Of the call, for the message.

    Raises
    ------
    EngineStalledError
        The engine was silent for `stall_s` to 9/8 of it.
    """
    if not stall_s:
        yield
        return
    loop = asyncio.get_running_loop()
    tick_s, silent, seen = stall_s / TICKS, 0, signs()
    watch: asyncio.TimerHandle
    try:
        async with asyncio.timeout(None) as bound:

            def look() -> None:
                nonlocal watch, silent, seen
                silent = silent + 1 if signs() == seen else 0
                seen = signs()
                if silent >= TICKS:
                    bound.reschedule(loop.time())
                else:
                    watch = loop.call_later(tick_s, look)

            watch = loop.call_later(tick_s, look)
            try:
                yield
            finally:
                watch.cancel()
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise EngineStalledError(f"{where}: no token for {stall_s:g} s (see router.stall_s)") from error


@asynccontextmanager
async def told_when_overdue(
    overdue_s: float, is_silent: Callable[[], bool], tell: Callable[[], object]
) -> AsyncIterator[None]:
    """Tell when there is no token after `overdue_s`, and again after each `Overdue.AGAIN` times as long; 0 is never."""
    if not overdue_s:
        yield
        return
    loop, waited_s = asyncio.get_running_loop(), overdue_s
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer, waited_s
        if is_silent():
            tell()
            timer = loop.call_later((Overdue.AGAIN - 1.0) * waited_s, look)
            waited_s *= Overdue.AGAIN

    timer = loop.call_later(overdue_s, look)
    try:
        yield
    finally:
        timer.cancel()
