"""Work that is waited for by callers who are cancelled: a thread cannot be, and what uses a file must end before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ["to_its_end", "to_their_end"]

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
    try:
        await to_their_end([working])
    except asyncio.CancelledError:
        if working.exception() is None and undo is not None:
            undo(working.result())
        raise
    return working.result()


async def to_their_end(works: Iterable[asyncio.Future[Any]]) -> None:
    """Wait until all of these have ended, whatever with; who is cancelled meanwhile is so then."""
    left, cancelled = set(works), None
    while left := {work for work in left if not work.done()}:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
