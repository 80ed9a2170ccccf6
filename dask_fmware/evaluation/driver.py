"""Drives a job: keeps a bounded number of rows under way, and records what came of them.

Each row is a coroutine: its run, the runs of its judges, its record. A row that is answered makes room for the next
before it is recorded, and rows that wait to be recorded are bounded too, so memory does not grow with the data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from distributed import Client

from dask_fmware.client.session import Outcome, Session
from dask_fmware.errors import EngineLoadError, FMwareError, RuntimeFaultError
from dask_fmware.evaluation.accounting import add_answer, add_verdict
from dask_fmware.evaluation.capacity import Capacity, asked_status
from dask_fmware.evaluation.failures import Failures
from dask_fmware.evaluation.feed import Feed
from dask_fmware.evaluation.flight import Flight
from dask_fmware.evaluation.job import Job
from dask_fmware.evaluation.output import Output
from dask_fmware.evaluation.pacer import Pacer
from dask_fmware.evaluation.progress import Meter, Progress
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.recorder import Recorder, describe
from dask_fmware.evaluation.scoring import Judge
from dask_fmware.evaluation.sources.source import DataError, Row
from dask_fmware.evaluation.threads import to_their_end
from dask_fmware.spec.slo import SLO

__all__ = ["Driver", "Limits"]

LOOK_S = 2.0  # between looks at the cluster
TELL_S = 0.25  # between two figures of progress
UNRECORDED = 4  # windows of answered rows that may wait to be recorded


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one session."""

    in_flight: int | None = None  # rows under way; None: twice the slots
    max_errors: float = 1000  # rows that may fail, and that may not be scored; below 1 a share
    rows: int | None = None  # of the data that count
    finish_by: float | None = None  # seconds since 1970


class Driver:
    """One session of a job.

    Parameters
    ----------
    client
        Of the cluster.
    job, output, limits
        What to do, where to record it, and within what bounds.
    total
        Rows of the data that count, where known.
    tell
        Called with figures as they change.
    """

    def __init__(
        self,
        client: Client,
        job: Job,
        output: Output,
        limits: Limits,
        total: int | None,
        tell: Callable[[Progress], None],
    ) -> None:
        self._client, self._job, self._output, self._limits = client, job, output, limits
        self._total, self._tell = total, tell
        self._session = Session(client)
        self._broken: asyncio.Future[None] | None = None  # raises what ends the job
        self._recorder = Recorder(output, job.scorers)
        self._rows: set[asyncio.Task[None]] = set()  # until they are recorded
        self._changed = asyncio.Event()
        self._failures = Failures(limits.max_errors)
        self._cost: float | None = None
        self._meter = Meter()
        to_do = None if total is None else total - len(output.done)
        self._pacer = Pacer(limits.finish_by, to_do)

    async def run(self) -> None:
        """Do all rows that are not done.

        Raises
        ------
        EvaluationStopped
            If more rows failed, or could not be scored, than may.
        OutputError
            If rows cannot be written.
        DataError
            If the data cannot be read on.
        RuntimeFaultError
            If the scheduler is lost or has no runtime, or a model that is needed will not be served.
        """
        await self._look()
        self._job.check_models(self._capacity.deployment)
        self._broken = asyncio.get_running_loop().create_future()
        feeding = asyncio.ensure_future(self._feed())
        beside = [asyncio.ensure_future(work) for work in (self._recorder.serve(), self._look_on(), self._tell_on())]
        try:
            ended, _ = await asyncio.wait([feeding, self._broken, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                if task.cancelled():
                    raise RuntimeFaultError("what drives the rows was cancelled from outside")
                task.result()
        except RuntimeFaultError as error:
            raise _resumable(error) from error
        finally:
            self._recorder.stop()
            self._broken.cancel()
            left = [feeding, *self._rows, *beside]
            for task in left:
                task.cancel()
            try:
                await to_their_end(left)
            finally:  # also if this is cancelled once more
                self._tell(self._progress())

    # -- rows ------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Start rows as there is room, until all are recorded."""
        feed = Feed(self._job.source, self._output.done, self._limits.rows)
        while True:
            self._failures.check()
            window = self._limits.in_flight or self._capacity.window
            room = min(window - len(self._pacer.flights), UNRECORDED * window - len(self._rows))
            if room > 0 and not feed.exhausted:
                for number, row in await feed.take(room):
                    self._start(number, row)
            if feed.exhausted and not self._rows:
                self._failures.check(of=len(self._output.done))
                return
            if room <= 0 or feed.exhausted:
                self._changed.clear()
                await self._changed.wait()

    def _start(self, number: int, row: Row) -> None:
        row_id = row.get(self._job.id_column) if self._job.id_column is not None else None
        record = Record(number, str(number if row_id is None else row_id))
        record.kept = {name: row.get(name) for name in self._job.kept}
        flight = self._pacer.start(record, row)
        self._meter.begin(flight.started_at)
        task = asyncio.ensure_future(self._row(flight))
        self._rows.add(task)
        task.add_done_callback(self._row_done)

    def _row_done(self, task: asyncio.Task[None]) -> None:
        self._rows.discard(task)
        error = RuntimeFaultError("a row was cancelled from outside") if task.cancelled() else task.exception()
        assert self._broken is not None
        if error is not None and not self._broken.done():  # once the session ends its rows are cancelled
            self._broken.set_exception(error)
        self._changed.set()

    async def _row(self, flight: Flight) -> None:
        """Answer, judge and record one row."""
        record = flight.record
        try:
            await self._answer(flight)
            if record.error is None:
                await self._judge(flight)
        except RuntimeFaultError:
            raise
        except FMwareError as error:  # this row cannot be run; the others can
            record.error = describe(error)
        finally:
            self._pacer.end(flight)
            self._changed.set()
        await self._recorder.record(record, flight.row)
        self._count(flight)

    async def _answer(self, flight: Flight) -> None:
        """Run a row: in the background or with a deadline, or in the background until it is given one."""

        async def run(objective: SLO | None) -> Outcome:
            return _served(await self._session.outcome(self._job.bind(flight.row, objective)))

        outcome = await flight.outcome(run, lambda: self._pacer.objective(flight))
        add_answer(flight.record, outcome, self._capacity.prices)
        self._pacer.ran(flight)

    async def _judge(self, flight: Flight) -> None:
        """Run the judges of an answer, as urgent as its row is."""
        if not self._job.judges:
            return
        judging = [asyncio.ensure_future(self._verdict(flight, judge)) for judge in self._job.judges]
        try:
            outcomes = await asyncio.gather(*judging)
        finally:
            for task in judging:  # where one is lost, the others are not waited for
                task.cancel()
        for judge, outcome in zip(self._job.judges, outcomes, strict=True):
            add_verdict(flight.record, judge, _served(outcome), self._capacity.prices)

    async def _verdict(self, flight: Flight, judge: Judge) -> Outcome:
        async def run(objective: SLO | None) -> Outcome:
            try:
                bound = self._job.bind_judge(judge, flight.row, flight.record.answer or "", objective)
            except DataError as error:  # a column of the judge is empty: this row cannot be judged
                return Outcome("", None, error, None)
            outcome: Outcome = await self._session.outcome(bound)
            return outcome

        return await flight.outcome(run, lambda: self._pacer.judges_objective(flight))

    def _count(self, flight: Flight) -> None:
        record = flight.record
        self._failures.count(record)
        self._meter.add(1, monotonic())
        if record.cost is not None:
            self._cost = (self._cost or 0.0) + record.cost

    # -- the cluster -----------------------------------------------------------------------------

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()
            self._pacer.promote()
            self._changed.set()

    async def _look(self) -> None:
        self._capacity = Capacity.of(await asked_status(self._client), self._job.models())

    async def _tell_on(self) -> None:
        while True:
            self._tell(self._progress())
            await asyncio.sleep(TELL_S)

    def _progress(self) -> Progress:
        missing = self._capacity.missing
        return Progress(
            done=len(self._output.done),
            total=self._total,
            errors=self._failures.errors,
            score_errors=self._failures.score_errors,
            running=len(self._pacer.flights),
            rate=self._meter.rate(monotonic()),
            cost=self._cost,
            note=f"no replica of {', '.join(missing)} is ready" if missing else "",
        )


def _served(outcome: Outcome) -> Outcome:
    """Return what came of a run, unless no other row can be served either."""
    if isinstance(outcome.error, EngineLoadError):
        raise RuntimeFaultError(str(outcome.error)) from outcome.error
    return outcome


def _resumable(error: RuntimeFaultError) -> RuntimeFaultError:
    return RuntimeFaultError(f"{error}; all recorded rows are safe: see to the cluster and run the same again to go on")
