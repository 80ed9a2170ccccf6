"""A bound on what runs at once, with a queue before it: lower priorities first, then first come first served.

It knows places only, not what is done in them.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

__all__ = ["SlotQueue"]


class SlotQueue:
    """Slots of one engine, on one event loop.

    Parameters
    ----------
    slots
        How many are taken at once, at most.
    """

    def __init__(self, slots: int) -> None:
        self._slots = self._free = slots
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @property
    def taken(self) -> int:
        """Slots that are held."""
        return self._slots - self._free

    @asynccontextmanager
    async def slot(self, priority: float) -> AsyncIterator[None]:
        """Hold a slot; waits until there is one."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, next(self._numbers), turn))
        self._fill()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                self._fill()

    def _fill(self) -> None:
        while self._queue and self._free:
            turn = heapq.heappop(self._queue)[2]
            if not turn.done():  # else whoever waited has gone
                self._free -= 1
                turn.set_result(None)
