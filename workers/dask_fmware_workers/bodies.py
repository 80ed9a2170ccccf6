"""Runs the bodies of maps and loops for the tasks that wait for them, with a Dask client of this worker."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed import Client

from dask_fmware.client.arriving import ArrivedResults
from dask_fmware.client.dask_internals import submit
from dask_fmware_workers.dask_internals import Reschedule, WorkerInternals

__all__ = ["BodyClient"]

CONNECT_S = 2.0  # that a client which is being made may take when its worker closes


class BodyClient:
    """One client for all maps and loops of a worker, made when it is first needed."""

    def __init__(self, dask: WorkerInternals) -> None:
        self._dask = dask
        self._client: asyncio.Task[Client] | None = None
        self._waiting: dict[str, set[asyncio.Task[list[Any]]]] = {}

    async def run(self, graph: dict[str, Any], keys: list[str], key: str) -> list[Any]:
        """Submit a graph and return the values of `keys`, for the task `key`, which gives its slot back."""
        task = asyncio.ensure_future(self._made(graph, keys, key))
        self._waiting.setdefault(key, set()).add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not task.done():  # the worker closes
                task.cancel()
                raise
            raise Reschedule(f"the task {key} was released") from None
        finally:
            self._waiting[key].discard(task)
            if not self._waiting[key]:
                del self._waiting[key]

    async def _made(self, graph: dict[str, Any], keys: list[str], key: str) -> list[Any]:
        client = await self._connected()
        self._dask.secede(key)
        arrived = ArrivedResults.of(client)
        futures = submit(client, graph, keys, over=arrived.ask(client))
        try:
            return await arrived.results(futures)
        finally:
            for future in futures:
                arrived.release(future)

    async def _connected(self) -> Client:
        """Return the client; one that could not be made, or that has lost its scheduler, is made anew."""
        making = self._client
        if making is None or (making.done() and not _serves(making)):
            making = self._client = asyncio.ensure_future(self._dask.client())
        return await asyncio.shield(making)

    def cancel(self, key: str) -> None:
        """Let go of the bodies of a task; their calls are aborted."""
        for task in self._waiting.get(key, ()):
            task.cancel()

    async def close(self) -> None:
        """Close the client."""
        making, self._client = self._client, None
        if making is not None:
            _, late = await asyncio.wait([making], timeout=CONNECT_S)  # Dask leaves something of one that is cancelled
            if late:
                making.cancel()
            elif _serves(making):
                await making.result().close()


def _serves(made: asyncio.Task[Client]) -> bool:
    """Whether there is a client, and it is of use."""
    return not made.cancelled() and made.exception() is None and made.result().status not in ("closing", "closed")
