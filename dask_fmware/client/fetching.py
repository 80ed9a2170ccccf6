"""Results of Dask futures for callers that may be cancelled: a service whose user has gone, a job that is stopped.

A client fetches what concurrent callers wait for in one request: the first of them starts it, the others await the same
task. If the first is cancelled before that task has taken its first step, the client keeps it, and whatever it fetches
from then on ends in `CancelledError` (`Client._gather`, distributed 2026.8). So callers are cancelled and fetches never
are: a fetch whose futures are released ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from dask_fmware.errors import RuntimeFaultError

__all__ = ["fetched"]

T = TypeVar("T")


async def fetched(fetch: Awaitable[T]) -> T:
    """Await what a Dask client fetches (``future.result()``, ``client.gather(futures)``).

    Whoever cancels it releases the futures, or the fetch goes on until their tasks have ended.

    Raises
    ------
    RuntimeFaultError
        If the client is broken already: somebody cancelled a fetch of its own.
    """
    going = asyncio.ensure_future(fetch)
    try:
        return await asyncio.shield(going)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if going.cancelled() and caller is not None and not caller.cancelling():
            raise RuntimeFaultError(
                "this Dask client fetches no results any more: a fetch was cancelled in the moment it began, and Dask "
                "keeps to it. Make a new Client, and await runs that may be cancelled with fm.Session"
            ) from None
        going.add_done_callback(_seen)
        raise


def _seen(fetch: asyncio.Future[T]) -> None:
    """Take note of how a fetch ended that nobody waits for, or Python complains of it."""
    if not fetch.cancelled():
        fetch.exception()
