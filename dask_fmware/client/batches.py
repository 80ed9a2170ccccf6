"""Work in batches that form by themselves: what comes while the one before is under way is the next."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Generic, TypeVar

__all__ = ["Batches", "Pace"]

Item = TypeVar("Item")
Made = TypeVar("Made")


class Pace:
    """How long one batch follows another: at once while few items come, later the faster they come.

    A batch costs about as much as twenty items in it. At three hundred items a second, a batch for each two of them
    took most of the time; one for each six takes little, and while few come there is nothing to save.

    Parameters
    ----------
    pause_s
        Between the starts of two batches where items come every `FAST_S` or faster; none where every `SLOW_S`.
    under_way
        How many items are not done with yet. As one takes their number times the time between two (Little's law), the
        pause is `OF_ONE` of that at most; whoever has one item after the other made never waits.
    """

    SLOW_S, FAST_S = 1 / 100, 1 / 300  # between two items
    NEWEST = 0.25  # weight of the latest batch in what is known of that
    OF_ONE = 0.5

    def __init__(self, pause_s: float = 0.0, under_way: Callable[[], float] = lambda: inf) -> None:
        self._most_s, self._under_way = pause_s, under_way
        self._between_s = self.SLOW_S
        self._last = -inf

    def began(self, items: int, now: float) -> float:
        """Take note that a batch of so many items begins, and return when the next one may."""
        between_s = min((now - self._last) / items, self.SLOW_S)
        self._between_s += self.NEWEST * (between_s - self._between_s)
        self._last = now
        share = (self.SLOW_S - self._between_s) / (self.SLOW_S - self.FAST_S)
        others = items + self._under_way() - 1
        return now + min(self._most_s * min(share, 1.0), self.OF_ONE * others * self._between_s)


class Batches(Generic[Item, Made]):
    """Awaits results of items one by one and has them made together.

    An item that is alone waits for nothing; under load batches grow with the time that one takes.

    Parameters
    ----------
    work
        Makes the results of some items, in their order, an exception where one failed. What it raises is the error of
        all of them; if it is cancelled, so are they.
    at_once
        Batches under way side by side.
    pace
        When the next batch may begin; without, as soon as one of those under way has ended.
    discard
        Called with a result whose caller was cancelled meanwhile: nobody else can give back what it holds.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Made | Exception]]],
        at_once: int = 1,
        pace: Pace | None = None,
        discard: Callable[[Made], None] | None = None,
    ) -> None:
        self._work, self._at_once, self._pace, self._discard = work, at_once, pace or Pace(), discard
        self._not_before = 0.0
        self._waiting: list[tuple[Item, asyncio.Future[Made]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_called = False

    async def made(self, item: Item) -> Made:
        """Return the result of an item."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Made] = loop.create_future()
        self._waiting.append((item, waiter))
        self._call()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:  # it came with the cancellation
                self._drop(waiter.result())
            raise

    def _call(self) -> None:
        """Have the next batch begin: not at once, as others of this moment come along; in the context of no caller."""
        if not self._is_called:
            self._is_called = True
            loop = asyncio.get_running_loop()
            loop.call_at(self._not_before, self._start, context=contextvars.Context())

    def _start(self) -> None:
        self._is_called = False
        if self._waiting and len(self._under_way) < self._at_once:
            batch = [(item, waiter) for item, waiter in self._waiting if not waiter.done()]
            self._waiting.clear()
            if batch:
                self._not_before = self._pace.began(len(batch), asyncio.get_running_loop().time())
                task = asyncio.ensure_future(self._make(batch))
                self._under_way.add(task)
                task.add_done_callback(self._next)

    def _next(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._call()

    async def _make(self, batch: Sequence[tuple[Item, asyncio.Future[Made]]]) -> None:
        try:
            made = await self._work([item for item, _ in batch])
        except Exception as error:
            made = [error] * len(batch)
        except BaseException:  # cancelled by whoever ends the loop, or by what it waits for
            for _, waiter in batch:
                waiter.cancel()
            raise
        for (_, waiter), one in zip(batch, made, strict=True):
            if isinstance(one, Exception):
                if not waiter.done():
                    waiter.set_exception(one)
            elif waiter.done():
                self._drop(one)
            else:
                waiter.set_result(one)

    def _drop(self, made: Made) -> None:
        if self._discard is not None:
            self._discard(made)
