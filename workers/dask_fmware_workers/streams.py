"""The text of answers while it is generated, for clients that read along.

A worker keeps the text of each attempt while it runs, and of the last 256 that have ended, so that a client
that comes late misses nothing. A reader that is slow gets larger pieces, never a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

__all__ = ["AnswerStreams", "TextStream"]

KEEP_ENDED = 256  # streams that are remembered once they have ended; who ended first goes first


class TextStream:
    """The growing text of one attempt."""

    __slots__ = ("_changed", "ended", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.ended: str | None = None  # "finished", "failed", "aborted", "retry"
        self._changed: set[asyncio.Future[None]] = set()

    def add(self, text: str) -> None:
        """Append a piece."""
        self.pieces.append(text)
        self._wake()

    def end(self, outcome: str) -> None:
        """Close the stream."""
        self.ended = outcome
        self._wake()

    def _wake(self) -> None:
        waiting, self._changed = self._changed, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def follow(self) -> AsyncIterator[str]:
        """Yield the text from its beginning, in pieces as large as the reader's pace makes them."""
        read = 0
        while True:
            if read < len(self.pieces):
                text = "".join(self.pieces[read:])
                read = len(self.pieces)
                if text:
                    yield text
            elif self.ended is not None:
                return
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._changed.add(waiter)
                try:
                    await waiter
                finally:
                    self._changed.discard(waiter)


class AnswerStreams:
    """Streams by call and attempt."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, int], TextStream] = {}  # under way, or ended a moment ago
        self._ended: dict[tuple[str, int], TextStream] = {}
        self._expected: dict[tuple[str, int], set[asyncio.Future[TextStream]]] = {}

    def open(self, call_id: str, attempt: int) -> TextStream:
        """Begin the stream of an attempt."""
        self._retire()
        self._ended.pop((call_id, attempt), None)  # of a run of the same id
        stream = self._streams[call_id, attempt] = TextStream()
        for waiter in self._expected.pop((call_id, attempt), ()):
            if not waiter.done():
                waiter.set_result(stream)
        return stream

    def _retire(self) -> None:
        """Forget all but the last that have ended, however long others are under way."""
        for key in [key for key, stream in self._streams.items() if stream.ended is not None]:
            self._ended[key] = self._streams.pop(key)
        for key in list(islice(self._ended, max(len(self._ended) - KEEP_ENDED, 0))):
            del self._ended[key]

    async def find(self, call_id: str, attempt: int, patience_s: float) -> TextStream | None:
        """Return the stream of an attempt; it may be announced a moment before it begins."""
        stream = self._streams.get((call_id, attempt)) or self._ended.get((call_id, attempt))
        if stream is not None:
            return stream
        waiter: asyncio.Future[TextStream] = asyncio.get_running_loop().create_future()
        self._expected.setdefault((call_id, attempt), set()).add(waiter)
        try:
            return await asyncio.wait_for(waiter, patience_s)
        except TimeoutError:
            return None
        finally:
            waiting = self._expected.get((call_id, attempt))
            if waiting is not None:
                waiting.discard(waiter)
                if not waiting:
                    del self._expected[call_id, attempt]

    async def serve(self, comm: Any, call_id: str, attempt: int) -> dict[str, Any]:
        """Write the text of an attempt to a comm as it grows, then how it ended (RPC handler)."""
        stream = await self.find(call_id, attempt, patience_s=10.0)
        if stream is None:
            return {"end": "unknown"}
        async for text in stream.follow():
            await comm.write({"text": text})
        return {"end": stream.ended}
