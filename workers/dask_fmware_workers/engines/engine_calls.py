"""The requests of an engine that are under way: each is served by a task of its own and streamed to its caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.model.engine import Delta, Request
from dask_fmware_workers.engines.engine_call import EngineCall

__all__ = ["EngineCalls"]


class EngineCalls:
    """Requests by their ids.

    Parameters
    ----------
    engine
        Name of the engine, for errors.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._calls: dict[str, EngineCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stream(
        self, request: Request, serve: Callable[[EngineCall], Coroutine[Any, Any, None]]
    ) -> AsyncGenerator[Delta, None]:
        """Let `serve` put the deltas of a request, and yield them; it is cancelled when nobody takes them any more.

        Raises
        ------
        SpecError
            If the id is in use.
        FMwareError
            What `serve` put as the end.
        """
        if request.request_id in self._calls:
            raise SpecError(f"{self._engine}: request '{request.request_id}' is already running; ids are unique")
        call = self._calls[request.request_id] = EngineCall(request)
        call.task = asyncio.create_task(serve(call), name=f"request {request.request_id}")
        self._tasks.add(call.task)
        call.task.add_done_callback(self._tasks.discard)
        try:
            delta = await call.next_delta()
            while delta.finish_reason is None:
                yield delta
                delta = await call.next_delta()
            yield delta
        finally:
            call.is_over = True
            call.task.cancel()
            del self._calls[request.request_id]

    def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once. Unknown ids are ignored."""
        if (call := self._calls.get(request_id)) is not None:
            call.abort()

    async def close(self) -> None:
        """Stop all of them and wait for their tasks."""
        for call in self._calls.values():
            call.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        return sum(not call.has_slot and not call.is_over for call in self._calls.values())
