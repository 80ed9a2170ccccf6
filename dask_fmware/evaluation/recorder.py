"""Scores finished rows and writes them down, many at a time, in a thread beside the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic

from dask_fmware.evaluation.output import Output, OutputError
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.scoring import Scorer
from dask_fmware.evaluation.sources.source import Row
from dask_fmware.evaluation.threads import to_its_end

__all__ = ["Recorder", "describe", "kind_of"]

WRITE_S = 0.1  # rows that end within this are written together
LAST_S = 0.5  # that rows which are answered are still scored for, once an evaluation is to end
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
        self._until = inf  # nothing more is scored then, on the clock of `monotonic`

    async def record(self, record: Record, row: Row) -> None:
        """Return when a record is on the disk."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished.append(_Finished(record, row, written))
        self._wake.set()
        await written

    async def serve(self) -> None:
        """Write until cancelled, and then, after `stop`, what there is time for.

        Raises
        ------
        OutputError
            If rows cannot be written.
        """
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(WRITE_S)
                self._wake.clear()
                await self._write_all()
        except asyncio.CancelledError:
            with suppress(OutputError):  # these rows will be evaluated again
                await self._write_all()
            raise

    def stop(self) -> None:
        """Let `serve` end soon: rows that wait to be scored are so for `LAST_S` more, the others are left."""
        self._until = monotonic() + LAST_S

    async def _write_all(self) -> None:
        batch, self._finished = self._finished, []
        loop = asyncio.get_running_loop()
        await to_its_end(partial(self._write, batch, loop))  # the output must not be closed under it

    def _write(self, batch: Sequence[_Finished], loop: asyncio.AbstractEventLoop) -> None:
        for scored in self._scored(batch):
            self._output.write([item.record for item in scored])
            loop.call_soon_threadsafe(_tell, scored)

    def _scored(self, batch: Sequence[_Finished]) -> Iterator[Sequence[_Finished]]:
        """Score rows, and yield those that are: none waits longer than `WRITE_S` for others that take their time."""
        scored: list[_Finished] = []
        since = monotonic()
        for item in batch:
            if monotonic() > self._until:
                break
            if item.record.error is None:
                self._score(item.record, item.row)
            scored.append(item)
            if monotonic() - since > WRITE_S:
                yield scored
                scored, since = [], monotonic()
        if scored:
            yield scored

    def _score(self, record: Record, row: Row) -> None:
        for scorer in self._scorers:
            try:
                record.scores[scorer.name] = scorer.score(record.answer or "", row)
            except BaseException as error:  # costs this row this score: of an answer's code, as Ctrl-C is of no thread
                record.scores[scorer.name] = None
                record.score_errors[scorer.name] = describe(error)


def _tell(written: Sequence[_Finished]) -> None:
    for item in written:
        if not item.written.done():
            item.written.set_result(None)


def describe(error: BaseException) -> str:
    """Return an error as one line."""
    try:
        said = str(error)
    except Exception as fault:  # in words that are a program
        said = f"its words raise {type(fault).__name__}"
    text = " ".join(f"{type(error).__name__}: {said}".split())
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def kind_of(error: str) -> str:
    """Return an error without what is different in each row, so that those of one cause count as one.

    >>> kind_of("EngineError: vLLM: request 'ask.answer-e29368f4931f4535996f4918b4d96a4e#1' was refused")
    "EngineError: vLLM: request 'ask.answer' was refused"
    """
    return OF_A_CALL.sub("", error)
