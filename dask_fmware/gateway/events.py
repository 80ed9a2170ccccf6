"""Server-sent events, as an answer that comes bit by bit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tornado.iostream import StreamClosedError

from dask_fmware.gateway.handler import Handler

__all__ = ["Events"]

QUIET_S = 15.0  # after which a comment is written: proxies cut a silent answer after a minute or so
COMMENT = ": under way\n\n"


class Events:
    """The events that answer a request."""

    def __init__(self, request: Handler) -> None:
        self._request = request
        self._turn = asyncio.Lock()  # Tornado forgets who waits for one write when another begins
        self._wrote_s = asyncio.get_running_loop().time()
        self.have_begun = False  # so that there is no status to give any more

    async def send(self, said: str, name: str | None = None) -> None:
        """Write an event and wait until it is sent."""
        await self._sent(_event(said, name))

    def put(self, said: str, name: str | None = None) -> None:
        """Write an event that nobody waits for."""
        self._written(_event(said, name))

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Write a comment, which callers pass over, wherever nothing is said for a while.

        So no proxy takes a run that waits for a dead one, and a caller who has gone without a word is noticed.
        """
        commenting = asyncio.create_task(self._comment())
        try:
            yield
        finally:
            commenting.cancel()
            await asyncio.wait({commenting})

    async def _comment(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(StreamClosedError):  # the request hears of it as well
            while True:
                quiet_s = loop.time() - self._wrote_s
                if quiet_s < QUIET_S:
                    await asyncio.sleep(QUIET_S - quiet_s)
                else:
                    await self._sent(COMMENT)

    async def _sent(self, text: str) -> None:
        async with self._turn:
            await self._request.taken(self._written(text), len(text))

    def _written(self, text: str) -> asyncio.Future[None]:
        """Write, and the headers before the first; done when it is sent."""
        if not self.have_begun:
            self._request.set_header("Content-Type", "text/event-stream; charset=utf-8")
            self._request.set_header("X-Accel-Buffering", "no")  # proxies would keep what is to be read along
        self.have_begun = True
        self._wrote_s = asyncio.get_running_loop().time()
        self._request.write(text)
        written: asyncio.Future[None] = self._request.flush()
        return written


def _event(said: str, name: str | None) -> str:
    return f"event: {name}\ndata: {said}\n\n" if name else f"data: {said}\n\n"
