"""Runs the bodies of maps and loops for the tasks that wait for them, with a Dask client of this worker."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed import Client

from dask_fmware.client.fetching import fetched
from dask_fmware_workers.dask_internals import Reschedule, WorkerInternals

__all__ = ["BodyClient"]


class BodyClient:
    """One client for all maps and loops of a worker, made when it is first needed."""

    def __init__(self, dask: WorkerInternals) -> None:
        self._dask = dask
        self._client: asyncio.Task[Client] | None = None
        self._waiting: dict[str, set[asyncio.Task[list[Any]]]] = {}

    async def run(self, graph: dict[str, Any], keys: list[str], key: str) -> list[Any]:
        """Submit a graph and return the values of `keys`, for the task `key`, which gives its slot back."""
        client = await self._connected()
        self._dask.secede(key)
        task = asyncio.ensure_future(self._gather(client, graph, keys))
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

    async def _connected(self) -> Client:
        """Return the client; one that could not be made is made anew for the next task."""
        making = self._client
        if making is None or (making.done() and (making.cancelled() or making.exception() is not None)):
            making = self._client = asyncio.ensure_future(self._dask.client())
        return await asyncio.shield(making)

    @staticmethod
    async def _gather(client: Client, graph: dict[str, Any], keys: list[str]) -> list[Any]:
        futures = client.get(graph, keys, sync=False)
        try:
            return list(await fetched(client.gather(futures)))
        finally:
            for future in futures:
                future.release()

    def cancel(self, key: str) -> None:
        """Let go of the bodies of a task; their calls are aborted."""
        for task in self._waiting.get(key, ()):
            task.cancel()

    async def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            client, self._client = self._client, None
            if client.done() and not client.cancelled() and client.exception() is None:
                await client.result().close()
            else:
                client.cancel()
