"""One request on its way through an engine whose answer is fetched by a task of its own.

It owns the hand-over between that task, which puts deltas in, and the consumer of the stream, which takes them
out at its own pace; and that nothing follows the end. It knows no engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from dask_fmware.errors import FMwareError
from dask_fmware.model.engine import Delta, Request, Usage

__all__ = ["EngineCall"]


@dataclass(eq=False, slots=True)
class EngineCall:
    """One accepted request: what has come in and has not been read yet."""

    request: Request
    prompt_tokens: int = 0  # counted or estimated
    cached_tokens: int = 0
    given: int = 0  # tokens in its deltas
    has_slot: bool = False  # has or had one
    is_over: bool = False
    task: asyncio.Task[None] | None = None
    _items: deque[Delta | FMwareError] = field(default_factory=deque, repr=False)
    _waiter: asyncio.Future[None] | None = None

    def put(self, item: Delta | FMwareError) -> None:
        """Hand over a delta, or the error that ends the stream; ignored after the end."""
        if self.is_over:
            return
        if isinstance(item, Delta):
            self.given += item.tokens
            self.is_over = item.finish_reason is not None
        else:
            self.is_over = True
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abort(self) -> None:
        """End the stream here and stop its task."""
        usage = Usage(self.prompt_tokens, self.given, self.cached_tokens)
        self.put(Delta("", finish_reason="abort", usage=usage))
        if self.task is not None:
            self.task.cancel()

    async def next_delta(self) -> Delta:
        """Wait for the next delta; raises the error that ended the stream."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, Delta):
            return item
        raise item
