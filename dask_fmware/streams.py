"""What we change in the streams of messages between scheduler, workers and clients (`distributed.batched.BatchedSend`).

Verified with distributed 2026.8; `tests/cluster/test_dask_message_internals.py` holds the contract tests.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import CommClosedError

__all__ = ["PromptSend", "keep_no_messages", "measure_no_messages", "send_promptly", "send_with_next"]

logger = logging.getLogger("dask_fmware")

LOOK_S = 0.005  # between two looks whether a stream is idle


class PromptSend(BatchedSend):  # type: ignore[misc]
    """A stream whose batches cost less: no timer, no exception and no other task for each.

    The writer of stock Dask ends its pause after each batch by a timer that raises, and is a coroutine of Tornado's
    around another task. What that is worth: ``benchmarks.streams``.
    """

    buffer: list[Any]
    _writer: asyncio.Task[None] | None = None
    _next_at = 0.0  # in the time of the loop

    async def _background_send(self) -> None:
        """Wait until the stream is closed, as its stock writer does where it was made prompt later."""
        self._begin()
        while not self.please_stop:
            await self.waker.wait()
            self.waker.clear()
        self.stopped.set()

    def send(self, *msgs: Any) -> None:
        """Have messages written, those before them first.

        Raises
        ------
        CommClosedError
            If the stream is closed.
        """
        if self.comm is None or self.comm.closed():
            super().send(*msgs)
            return
        self.message_count += len(msgs)
        self.buffer.extend(msgs)
        self._begin()

    def _begin(self) -> None:
        if self.buffer and self._writer is None:  # else that takes along what has come
            self._writer = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self.buffer and not self.please_stop:
                if (pause := self._next_at - loop.time()) > 0:
                    await asyncio.sleep(pause)
                payload, self.buffer = self.buffer, []
                self.batch_count += 1
                self._next_at = loop.time() + self.interval
                self.byte_count += await self.comm.write(payload, serializers=self.serializers, on_error="raise")
                self.recent_message_log.append(payload)
        except CommClosedError:
            logger.info("the stream %r was closed", self.comm, exc_info=True)
            self.abort()
        except Exception:  # part of a message may have been written: nothing can follow it
            logger.exception("a message could not be written to %r", self.comm)
            self.abort()
        finally:
            self._writer = None


def send_promptly(stream: BatchedSend, interval_s: float) -> None:
    """Have a stream write at once, but for a pause of `interval_s` after each batch (2 to 10 ms in stock Dask).

    One that is under way is made so when its stock writer sleeps: what that has taken must not be overtaken. It sleeps
    until the stream is closed, then.
    """
    stream.interval = interval_s
    _change(stream)


def _change(stream: BatchedSend) -> None:
    if stream.please_stop or isinstance(stream, PromptSend):
        return
    if stream.comm is not None and (stream.buffer or stream.next_deadline is not None or stream.waker.is_set()):
        stream.loop.call_later(LOOK_S, _change, stream)
    else:
        stream.__class__ = PromptSend


def send_with_next(stream: BatchedSend, message: dict[str, Any], within_s: float) -> None:
    """Let a message go with the next, or by itself after `within_s`; none where the stream is closed."""
    if stream.comm is None or stream.comm.closed():
        return
    stream.buffer.append(message)
    stream.message_count += 1
    stream.loop.call_later(within_s, stream._begin if isinstance(stream, PromptSend) else stream.waker.set)


def keep_no_messages(stream: BatchedSend) -> None:
    """Do not remember what was sent: stock Dask keeps the last 1,000 messages, prompts included."""
    stream.recent_message_log = deque(maxlen=0)


def measure_no_messages(stream: BatchedSend) -> None:
    """Do not work out the size of each message, by which stock Dask serializes large ones in another thread.

    What workers tell their scheduler is small, as what they are told is, which Dask does not measure either. Clients
    have serialized their graphs by then.
    """
    if stream.comm is not None:
        stream.comm.allow_offload = False
