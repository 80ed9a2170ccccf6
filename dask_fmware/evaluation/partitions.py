"""Partitions of Dask collections, computed for the threads that read data."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future as ThreadFuture
from threading import Lock
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future

from dask_fmware.client.fetching import fetched
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.model.replica import MODEL_LABEL, read_label

__all__ = ["Partitions"]


class Partitions:
    """Computes partitions on light workers until it is closed; a context manager.

    A thread that waits for one can be told to wait no longer, or it would wait for ever once the client's loop ends,
    and keep Python from ending.

    Parameters
    ----------
    client
        On whose loop they are submitted.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._awaited: set[ThreadFuture[Any]] = set()
        self._lock = Lock()
        self._closed = False

    def compute(self, part: Any) -> Any:
        """Return a partition; blocks, so not on the loop."""
        with self._lock:
            if self._closed:
                raise RuntimeFaultError("the data is read no more: the evaluation has ended")
            made = asyncio.run_coroutine_threadsafe(self._computed(part), self._client.loop.asyncio_loop)
            self._awaited.add(made)
        try:
            return made.result()
        finally:
            with self._lock:
                self._awaited.discard(made)

    async def _computed(self, part: Any) -> Any:
        known = await self._client.scheduler.identity(n_workers=-1)
        light = [a for a, info in known["workers"].items() if read_label(info["resources"], MODEL_LABEL) is None]
        future: Future = self._client.compute(part, workers=light or None, allow_other_workers=True)
        try:
            return await fetched(future.result())
        finally:
            future.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            awaited = list(self._awaited)
        for made in awaited:
            made.cancel()
