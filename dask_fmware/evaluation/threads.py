"""Work in threads for callers that may be cancelled: a thread cannot be, so they wait until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

__all__ = ["to_its_end"]

T = TypeVar("T")


async def to_its_end(work: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Call something in a thread; who is cancelled meanwhile, however often, is so when the call has ended.

    Parameters
    ----------
    work
        What is called.
    undo
        Called with its result if nobody takes it: what it holds would be held for ever.
    """
    working = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work)
    cancelled: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return working.result()
    if working.exception() is None and undo is not None:
        undo(working.result())
    raise cancelled
