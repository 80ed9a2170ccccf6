"""Clients that connect again: each is taken in when nothing is left of its connection before."""

from __future__ import annotations

import asyncio
from typing import Any

from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["Reconnections"]

LOOK_S = 0.005  # between two looks whether a connection is gone
LOOKS = 1000  # then Dask takes the client in as it would have


class Reconnections:
    """Answers clients that register.

    A client whose connection broke comes back under its name within milliseconds. Stock Dask may still be closing the
    old connection then, and what it takes away in the end is the new one: the client believes that it is connected, is
    told nothing any more, and its futures never end. Or it greets the client along with news for the old connection,
    on which the client gives up. An old connection that nobody has found broken is closed, and of several that wait
    for that the last one is taken: they would close each other for ever.

    Parameters
    ----------
    dask
        What takes clients in.
    """

    def __init__(self, dask: SchedulerInternals) -> None:
        self._dask = dask
        self._waiting: dict[str, Any] = {}  # the last connection of each client that waits for the one before to close
        dask.answer_registrations(self._register)

    def close(self) -> None:
        """Leave it to stock Dask."""
        self._dask.answer_registrations(None)

    async def _register(self, comm: Any, client: str, **fields: Any) -> None:
        """Serve the connection of a client until it ends. Dask passes it on where the first argument is ``comm``."""
        self._waiting[client] = comm
        looks = 0
        while self._dask.is_connected(client) and looks < LOOKS:
            self._dask.break_connection(client)
            await asyncio.sleep(LOOK_S)
            looks += 1
            if self._waiting.get(client) is not comm:
                comm.abort()
                return
        del self._waiting[client]
        await self._dask.register(comm, client, **fields)
