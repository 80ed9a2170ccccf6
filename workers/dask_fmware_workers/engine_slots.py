"""The slots of an engine, on its worker: a call that was granted ahead waits here for one that ends.

The router grants a call a moment before it expects a slot to be free, so that the slot is not empty while messages
travel. It may be wrong about the moment; this is what keeps the engine to its slots all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter

__all__ = ["EngineSlots", "NeverBeganError"]


class NeverBeganError(Exception):
    """A call got no slot of its engine: it has waited too long, or the engine has died."""


class EngineSlots:
    """Slots that are taken in the order in which calls come.

    Parameters
    ----------
    count
        Calls that the engine runs at once; None for no bound.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self, patience_s: float) -> float:
        """Take a slot as soon as one is free; return for how many seconds that took.

        Parameters
        ----------
        patience_s
            Seconds after which to give up; 0 is never.

        Raises
        ------
        NeverBeganError
            There was none in that time, or the slots were closed.
        """
        if self.count is None or (self._taken < self.count and not self._waiting):
            self._taken += 1
            return 0.0
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        start = perf_counter()
        try:
            async with asyncio.timeout(patience_s or None):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self.give()  # it came too late
            elif mine in self._waiting:
                self._waiting.remove(mine)
            if isinstance(error, TimeoutError):
                raise NeverBeganError(f"no slot was free for {patience_s:.3f} s") from error
            raise
        return perf_counter() - start

    def give(self) -> None:
        """Give a slot back: whoever waits longest has it next."""
        self._taken -= 1
        while self._waiting:
            mine = self._waiting.popleft()
            if not mine.done():
                self._taken += 1
                mine.set_result(None)
                return

    def close(self) -> None:
        """The engine has died: nobody who waits gets a slot of it."""
        while self._waiting:
            mine = self._waiting.popleft()
            if not mine.done():
                mine.set_exception(NeverBeganError("its engine has died"))
