"""A Dask cluster that is closed in order whenever its start, or its closing, is cut short: Ctrl-C, a timeout, an error.

Dask cannot close a cluster that is half started: a start that is cancelled forgets the scheduler, or the workers whose
processes are under way. So starts and closings are tasks of their own here, which run to their end while those who wait
for them may be cancelled; and who closes waits for the start. Verified with distributed 2026.8 (SpecCluster._start,
_correct_state, _close, __aenter__).
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Self

from distributed.core import Status
from distributed.deploy.spec import SpecCluster

__all__ = ["OrderlyCluster"]


class OrderlyCluster(SpecCluster):  # type: ignore[misc]
    """A `distributed.SpecCluster`; takes what that takes."""

    def __init__(self, **kwargs: Any) -> None:
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._correcting: set[asyncio.Future[None]] = set()
        try:
            super().__init__(**kwargs)
        except BaseException:  # nobody else has this object
            if getattr(self, "status", Status.closed) != Status.closed and not self.asynchronous:
                self.close()
            raise

    async def _begin(self) -> None:
        """Start the scheduler."""
        await super()._start()

    async def _start(self) -> None:
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._starting)

    def _correct_state(self) -> asyncio.Future[None]:
        correcting: asyncio.Future[None] = super()._correct_state()
        self._correcting.add(correcting)
        correcting.add_done_callback(self._correcting.discard)
        return asyncio.shield(correcting)

    async def _close(self) -> None:
        if asyncio.current_task() is self._starting:  # Dask closes what could not start
            await super()._close()
            return
        if self._closing is None or self._closing.done():
            self._closing = asyncio.ensure_future(self._end())
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await super()._close()

    def __await__(self) -> Generator[Any, Any, Self]:
        is_new = self.status == Status.created
        try:
            made: Self = yield from super().__await__()
        except asyncio.CancelledError:
            if is_new:  # whoever awaited it does not get it
                yield from self._close().__await__()
            raise
        return made

    async def __aenter__(self) -> Self:
        try:
            made: Self = await super().__aenter__()
        except asyncio.CancelledError:
            await self._close()
            raise
        return made
