"""Retries by users: what is run again is told once more when it is over, as a client may have missed it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["Retries"]

AGAIN_S = (1.0, 10.0)  # after a retry


class Retries:
    """Answers clients that retry futures.

    A client takes a future for pending when it reads the answer to its retry. Where it was busy, it may have read
    before, on its stream, that the future is over again: it would wait for ever.

    Parameters
    ----------
    dask
        What retries and tells.
    """

    def __init__(self, dask: SchedulerInternals) -> None:
        self._dask = dask
        self._timers: set[asyncio.TimerHandle] = set()
        dask.answer_retries(self._retry)

    def close(self) -> None:
        """Leave it to stock Dask."""
        self._dask.answer_retries(None)
        for timer in self._timers:
            timer.cancel()

    def _retry(self, keys: Collection[str], client: str | None = None) -> tuple[str, ...]:
        named = self._dask.retry(keys, client)
        self._timers = {timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time()}
        for pause_s in AGAIN_S:
            self._timers.add(asyncio.get_running_loop().call_later(pause_s, self._dask.tell_ends, named))
        return named
