"""Scores finished rows and writes them down, many at a time, in a thread beside the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dask_fmware.evaluation.output import Output
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.scoring import Scorer
from dask_fmware.evaluation.sources.source import Row
from dask_fmware.evaluation.threads import to_its_end

__all__ = ["Recorder", "describe", "kind_of"]

WRITE_S = 0.1  # rows that end within this are written together
LONGEST = 2000  # characters of an error that are kept
OF_A_CALL = re.compile(r"-[0-9a-f]{32}[^'\s]*#\d+")  # what tells the calls of a node from each other in its errors


@dataclass(frozen=True, slots=True)
class _Finished:
    record: Record
    row: Row
    written: asyncio.Future[None]


class Recorder:
    """Writes records; `record` is awaited, `serve` must run beside it."""

    def __init__(self, output: Output, scorers: Sequence[Scorer]) -> None:
        self._output = output
        self._scorers = scorers
        self._finished: list[_Finished] = []
        self._wake = asyncio.Event()

    async def record(self, record: Record, row: Row) -> None:
        """Return when a record is on the disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished.append(_Finished(record, row, written))
        self._wake.set()
        await written

    async def serve(self) -> None:
        """Write until cancelled.

        Raises
        ------
        OutputError
            If rows cannot be written.
        """
        while True:
            await self._wake.wait()
            await asyncio.sleep(WRITE_S)
            self._wake.clear()
            batch, self._finished = self._finished, []
            await to_its_end(partial(self._write, batch))  # the output must not be closed under it
            for item in batch:
                if not item.written.done():
                    item.written.set_result(None)

    def _write(self, batch: Sequence[_Finished]) -> None:
        for item in batch:
            if item.record.error is None:
                self._score(item.record, item.row)
        self._output.write([item.record for item in batch])

    def _score(self, record: Record, row: Row) -> None:
        for scorer in self._scorers:
            try:
                record.scores[scorer.name] = scorer.score(record.answer or "", row)
            except (Exception, SystemExit) as error:  # costs this row this score; code in an answer may call exit()
                record.scores[scorer.name] = None
                record.score_errors[scorer.name] = describe(error)


def describe(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def kind_of(error: str) -> str:
    """Return an error without what is different in each row, so that those of one cause count as one.

    >>> kind_of("EngineError: vLLM: request 'ask.answer-e29368f4931f4535996f4918b4d96a4e#1' was refused")
    "EngineError: vLLM: request 'ask.answer' was refused"
    """
    return OF_A_CALL.sub("", error)
