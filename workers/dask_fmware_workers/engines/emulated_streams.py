"""The streams of an emulated engine: a batch that follows the law, played on the clock of the event loop.

One timer wakes it when a first or last token is due, and every `interval_s` while tokens come between them. A late
timer makes pieces larger; counts and finish times stay those of the law, since the batch advances by its own times
and not by the clock's. What the tokens say, it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from dask_fmware.model.engine import FinishReason, Request
from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware_workers.engines.emulated_answer import Answer

__all__ = ["EARLY_S", "Stream", "Streams"]

EARLY_S = 0.001  # what is due within this counts as due: the loop's timer rounds up to whole milliseconds


@dataclass(eq=False, slots=True)
class Stream:
    """One accepted request."""

    request: Request
    answer: Answer
    prompt_tokens: int
    cached_tokens: int
    blocks: list[int]  # of the prompt, for the prefix cache
    made: int = 0  # tokens that the law has given it
    given: int = 0  # tokens in its deltas
    ended: FinishReason | None = None
    waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let go on whoever waits in `changed`."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def end(self, reason: FinishReason) -> None:
        """Say why it has ended, unless it has."""
        if self.ended is None:
            self.ended = reason
            self.wake()

    async def changed(self) -> None:
        """Wait until there are tokens to give or the stream has ended."""
        while self.made == self.given and self.ended is None:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter


class Streams:
    """All streams of one engine.

    Parameters
    ----------
    law, limits
        Of the batch.
    interval_s
        Seconds on the clock between two pieces of a stream, at least.
    processed
        Told of each stream whose prompt has been processed.
    """

    def __init__(self, law: StepLaw, limits: Limits, interval_s: float, processed: Callable[[Stream], None]) -> None:
        self._law, self._limits = law, limits
        self._interval_s = interval_s
        self._processed = processed
        self._all: dict[str, Stream] = {}  # by request id, until they are left
        self._batch = EmulatedBatch(law, limits)
        self._under_way: dict[str, Stream] = {}  # between first and last token
        self._tick_at = 0.0  # when pieces are due next
        self._clock = 0.0  # end of the last step that was played; up to EARLY_S ahead of the loop's clock
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._all

    @property
    def running(self) -> int:
        """Streams with a slot."""
        return self._batch.running

    @property
    def waiting(self) -> int:
        """Streams without one."""
        return self._batch.waiting

    @property
    def reserved_tokens(self) -> int:
        """Tokens of the KV cache that those with a slot may come to need."""
        return self._batch.reserved_tokens

    def add(self, stream: Stream, arrived_s: float) -> None:
        """Begin a stream for a request that came at a time of the loop's clock."""
        request = stream.request
        self._play()
        self._batch.add(
            max(arrived_s, self._clock),
            request.request_id,
            stream.prompt_tokens,
            len(stream.answer.pieces),
            stream.cached_tokens,
            priority=request.priority,
        )
        self._all[request.request_id] = stream
        self._set_timer()

    def abort(self, request_id: str) -> None:
        """End a stream at once; its slot is free after the step. Unknown ids are ignored."""
        if (stream := self._all.get(request_id)) is not None:
            stream.end("abort")
            self._withdraw(stream)

    def leave(self, stream: Stream) -> None:
        """Forget a stream that nobody reads any more, however it ended."""
        if stream.ended is None:
            self._withdraw(stream)
        del self._all[stream.request.request_id]

    def set_speed(self, speed: float) -> None:
        """Play at `speed` times the law from now on."""
        self._batch.set_speed(self._play(), speed)
        self._set_timer()

    def close(self) -> None:
        """End all streams with abort, and begin with an empty batch."""
        for stream in self._all.values():
            stream.end("abort")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._under_way.clear()
        self._batch = EmulatedBatch(self._law, self._limits)

    def _withdraw(self, stream: Stream) -> None:
        """Take a stream out of the batch, if it is there."""
        now = self._play()  # which may give it its first token, or end it
        self._under_way.pop(stream.request.request_id, None)
        self._batch.abort(now, stream.request.request_id)
        self._set_timer()

    # -- time ------------------------------------------------------------------------------------

    def _play(self) -> float:
        """Do what the law has due and return the time of the batch.

        A request that comes after a step was played early is added at the end of that step, where the law
        would have let it in.
        """
        loop_s, batch = asyncio.get_running_loop().time(), self._batch
        while batch.next_event_at <= loop_s + EARLY_S:
            self._clock = batch.next_event_at
            for _, kind, request_id in batch.advance(self._clock):
                self._hand_out(self._all[request_id], kind, loop_s)
        return max(self._clock, loop_s)

    def _hand_out(self, stream: Stream, kind: int, loop_s: float) -> None:
        request_id = stream.request.request_id
        if kind == FIRST:
            self._processed(stream)
            if not self._under_way:
                self._tick_at = loop_s + self._interval_s
            self._under_way[request_id] = stream
            stream.made = 1
            stream.wake()
        else:
            del self._under_way[request_id]
            stream.made = len(stream.answer.pieces)
            stream.end(stream.answer.finish_reason)

    def _set_timer(self) -> None:
        """Wake up when the law or a piece is due next."""
        due = self._batch.next_event_at - EARLY_S
        if self._under_way:
            due = min(due, self._tick_at)
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due < inf:
            self._timer = asyncio.get_running_loop().call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._play()
        if self._under_way and now >= self._tick_at:
            self._tick_at = now + self._interval_s
            for request_id, stream in self._under_way.items():
                stream.made = self._batch.tokens(request_id, now)
                stream.wake()
        self._set_timer()
