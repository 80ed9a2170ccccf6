"""Rows that are still to be done, read ahead by a thread while others run."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

from dask_fmware.evaluation.output.rowset import RowSet
from dask_fmware.evaluation.sources.source import Row, Source

__all__ = ["Feed"]

CHUNK = 256  # rows read at once


class Feed:
    """Numbered rows of a source, without those that are done.

    Parameters
    ----------
    source
        Where they come from.
    done
        Recorded rows. It may grow by rows that were taken from here: a row is asked for once.
    limit
        Rows of the data that count, or None for all.
    """

    def __init__(self, source: Source, done: RowSet, limit: int | None) -> None:
        start = done.first_missing
        wanted = None if limit is None else max(0, limit - start)
        numbered = islice(enumerate(source.rows(start), start), wanted)
        self._todo = ((number, row) for number, row in numbered if number not in done)
        self._ready: deque[tuple[int, Row]] = deque()
        self._ended = False

    async def take(self, count: int) -> list[tuple[int, Row]]:
        """Return up to `count` rows, fewer only at the end."""
        while len(self._ready) < count and not self._ended:
            chunk = await asyncio.to_thread(lambda: list(islice(self._todo, max(count, CHUNK))))
            self._ended = not chunk
            self._ready.extend(chunk)
        return [self._ready.popleft() for _ in range(min(count, len(self._ready)))]

    @property
    def exhausted(self) -> bool:
        """Whether all rows have been taken."""
        return self._ended and not self._ready
