"""Many runs at once from one process, a web service say: awaited one by one, sent and asked for in batches.

One message for twenty runs costs client and scheduler little more than one for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
from distributed import Client, Future

from dask_fmware.client.arriving import ArrivedResults
from dask_fmware.client.asking import CLOSED, checked_client, is_closed, run_id_of
from dask_fmware.client.batches import Batches, Pace
from dask_fmware.client.dask_internals import submit
from dask_fmware.client.patience import checked_timeout, in_time
from dask_fmware.compile.collection import BoundWorkflow
from dask_fmware.errors import DeadlineRejectedError, NotInstalledError, RuntimeFaultError, VersionMismatchError
from dask_fmware.model.report import RunReport

__all__ = ["Outcome", "Session"]

PAUSE_S = 0.02  # between two messages with runs where hundreds come in a second
REPORTS_AT_ONCE = 2  # batches of reports that are fetched side by side
FATAL = (NotInstalledError, VersionMismatchError)  # no run will do better


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    run_id: str
    value: Any  # None if it failed
    error: Exception | None
    report: RunReport | None  # if the runtime had one

    @property
    def is_rejected(self) -> bool:
        """Whether it would have been late and asked to be rejected then (``on_miss="reject"``)."""
        return isinstance(self.error, DeadlineRejectedError)


class Session:
    """Runs workflows for many callers in one process.

    With a synchronous client `run` and `outcome` block and may be called from any number of threads; with an
    asynchronous one they are awaited. A caller that is cancelled cancels its run, as one does that gave it a `timeout`.

    Parameters
    ----------
    client
        Of a cluster with the runtime.

    Examples
    --------
    >>> session = fm.Session(client)  # doctest: +SKIP
    >>> answers = await asyncio.gather(*(session.run(rag(question=q)) for q in questions))  # doctest: +SKIP
    """

    def __init__(self, client: Client) -> None:
        self._client = checked_client(client, "Session")
        self._arrived = ArrivedResults.of(client)
        self._awaited = 0
        pace = Pace(PAUSE_S, lambda: self._awaited)
        self._submitted: Batches[_Asked, Future] = Batches(self._submit, pace=pace, discard=Future.release)
        self._reports: Batches[str, RunReport | None] = Batches(self._ask, REPORTS_AT_ONCE)

    def run(self, bound: BoundWorkflow, timeout: float | None = None) -> Any:
        """Run a workflow and return its result, or raise its error.

        Parameters
        ----------
        bound
            The run.
        timeout
            Seconds to wait, from the call on. Then the run is cancelled, as by a caller that is.

        Raises
        ------
        FMwareError
            What ended the run; `RuntimeFaultError` if the cluster is lost or somebody else cancelled it. What plain
            code raised is raised as it is.
        TimeoutError
            After `timeout` seconds, naming the run.
        """
        asked, within_s = _asked(bound, "run"), checked_timeout(timeout, "Session.run")
        return self._called(self._run, asked, within_s, _cancelled(bound, within_s))

    def outcome(self, run: BoundWorkflow | Future, timeout: float | None = None) -> Any:
        """Run a workflow and return an `Outcome`: its result or its error, and its report.

        What `submit` has returned is waited for, and stays with the caller.

        Parameters
        ----------
        run
            A bound workflow, or what `submit` has returned.
        timeout
            Seconds to wait, from the call on. Then a run that was made here is cancelled; another one goes on.

        Raises
        ------
        RuntimeFaultError
            If the cluster is lost or has no runtime, or somebody else cancelled the run.
        TimeoutError
            After `timeout` seconds, naming the run.
        """
        within_s = checked_timeout(timeout, "Session.outcome")
        if isinstance(run, Future):
            if run.client is not self._client:  # whose loop may be another
                raise TypeError("Session.outcome takes a future of the client that its session was made with")
            late = f"run {run_id_of(run)} has not ended within {within_s} s (timeout) and goes on; ask for it again"
            return self._called(self._ended, run, within_s, late)
        return self._called(self._outcome, _asked(run, "outcome"), within_s, _cancelled(run, within_s))

    def submit(self, bound: BoundWorkflow) -> Any:
        """Submit a workflow and return the future of its result, as ``client.compute`` does, to stream its answer.

        The run is cancelled when the future is released, or forgotten.

        Raises
        ------
        RuntimeFaultError
            If the cluster is lost.
        """
        return self._called(self._submitted.made, _asked(bound, "submit"))

    def _called(
        self, method: Callable[[Any], Awaitable[Any]], argument: Any, within_s: float | None = None, late: str = ""
    ) -> Any:
        if self._client.asynchronous:
            return in_time(partial(method, argument), within_s, late)
        return self._client.sync(self._until_closed, method, argument, within_s, late)

    # -- on the loop of the client ---------------------------------------------------------------

    async def _until_closed(
        self, method: Callable[[Any], Awaitable[Any]], argument: Any, within_s: float | None, late: str
    ) -> Any:
        """Await a method for a thread; where the client is closed meanwhile, its loop ends what it still runs."""
        try:
            return await in_time(partial(method, argument), within_s, late)
        except asyncio.CancelledError:
            if not is_closed(self._client):
                raise
            raise self._lost() from None

    async def _run(self, asked: _Asked) -> Any:
        future = await self._submitted.made(asked)
        try:
            return await self._result(future)
        finally:
            self._arrived.release(future)

    async def _outcome(self, asked: _Asked) -> Outcome:
        future = await self._submitted.made(asked)
        try:
            return await self._ended(future)
        finally:
            self._arrived.release(future)

    async def _ended(self, future: Future) -> Outcome:
        run_id, value, failure = run_id_of(future), None, None
        try:
            value = await self._result(future)
        except Exception as error:
            if isinstance(error, FATAL) or (isinstance(error, RuntimeFaultError) and not _is_its_own(future)):
                raise
            failure = error
        return Outcome(run_id, value, failure, await self._reports.made(run_id))

    async def _submit(self, asked: Sequence[_Asked]) -> list[Future | Exception]:
        made: dict[int, Future | Exception] = {}
        if is_closed(self._client):
            raise self._lost()
        there = self._arrived.ask(self._client)
        for message in _messages(asked):
            with dask.annotate(**asked[message[0]].annotations):
                made |= zip(message, self._send([asked[n].bound for n in message], there), strict=True)
        for one in made.values():
            if isinstance(one, Future):
                self._arrived.began(one)
        return [made[n] for n in range(len(asked))]

    def _send(self, bound: Sequence[BoundWorkflow], there: Any) -> list[Future | Exception]:
        """Submit runs in one message, over the connection `there` if the scheduler understands ours."""
        if len(bound) > 1:
            try:
                return self._apart(self._at_once(bound, there))
            except Exception:  # one of them cannot be submitted: find out which
                pass
        return [self._send_one(one, there) for one in bound]

    def _send_one(self, bound: BoundWorkflow, there: Any) -> Future | Exception:
        try:
            (future,) = self._at_once([bound], there)
        except Exception as error:
            return error if self._client.status == "running" else self._lost()
        return future

    def _at_once(self, bound: Sequence[BoundWorkflow], there: Any) -> Sequence[Future]:
        """Submit runs as ``client.compute`` would.

        That wraps each of them, searches all for what could be optimized and puts their tasks into an order: a tenth
        of what a run costs its client and scheduler. Where Dask has nothing to do they go as the tasks that they are.
        """
        if not all(one.is_plain for one in bound):
            return list(self._client.compute(list(bound)))
        graph = {key: task for one in bound for key, task in one.__dask_graph__().items()}
        outputs = [key for one in bound for key in one.__dask_keys__()]
        return submit(self._client, graph, outputs, over=there)

    def _apart(self, futures: Sequence[Future]) -> list[Future | Exception]:
        """Return a future for each caller: of a run that was asked for twice Dask's client makes one."""
        made, taken = list[Future | Exception](), set[int]()
        for one in futures:
            made.append(Future(one.key, self._client) if id(one) in taken else one)
            taken.add(id(one))
        return made

    async def _result(self, future: Future) -> Any:
        self._awaited += 1
        try:
            return await self._arrived.result(future)
        except Exception as error:
            if _is_its_own(future):
                raise
            if self._is_lost(error):
                raise self._lost() from error
            if not isinstance(error, FutureCancelledError):
                raise
            raise RuntimeFaultError(
                f"run {run_id_of(future)} was cancelled, by another client, a restart of the cluster or the loss of an "
                "input; submit it again"
            ) from error
        finally:
            self._awaited -= 1

    async def _ask(self, run_ids: Sequence[str]) -> list[RunReport | Exception | None]:
        try:
            packed = await self._client.scheduler.fmware_reports(run_ids=list(run_ids))
        except Exception as error:
            if self._is_lost(error):
                raise self._lost() from error
            raise
        if packed is None:
            raise NotInstalledError(
                f"the runtime at {self._client.scheduler.address} was uninstalled; install it again"
            )
        reports = {report.run_id: report for report in map(RunReport.unpacked, packed)}
        return [reports.get(run_id) for run_id in run_ids]

    def _is_lost(self, error: Exception) -> bool:
        """Whether the scheduler is gone: a client that closes meanwhile fails in ways of its own."""
        return isinstance(error, OSError) or self._client.status != "running"

    def _lost(self) -> RuntimeFaultError:
        """Return the error for a scheduler that is gone, or for a client that is closed."""
        if is_closed(self._client):
            return RuntimeFaultError(CLOSED)
        return RuntimeFaultError(f"the connection to {self._client.scheduler.address} was lost")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A run that a caller asks for, with the annotations of ``dask.annotate`` around the call."""

    bound: BoundWorkflow
    annotations: Mapping[str, Any]


def _messages(asked: Sequence[_Asked]) -> Iterator[list[int]]:
    """Yield the numbers of those that go in one message: with equal annotations, which hold for all of a message.

    Whoever waits for an input goes alone: where that is lost, the scheduler cancels all of its message.
    """
    together: list[list[int]] = []
    for n, one in enumerate(asked):
        if one.bound.waits:
            yield [n]
        elif (message := next((m for m in together if asked[m[0]].annotations == one.annotations), None)) is not None:
            message.append(n)
        else:
            together.append([n])
    yield from together


def _asked(bound: Any, method: str) -> _Asked:
    if isinstance(bound, BoundWorkflow):
        return _Asked(bound, dask.get_annotations())
    spec = getattr(bound, "workflow", None)
    example = f"{spec.name}({', '.join(f'{item.name}=...' for item in spec.inputs)})" if spec else "rag(question=...)"
    raise TypeError(
        f"Session.{method} takes a workflow bound to its inputs, such as {example}, not a {type(bound).__name__}"
    )


def _cancelled(bound: BoundWorkflow, within_s: float | None) -> str:
    """Return what is said of a run that its caller waits for no longer."""
    if within_s is None:
        return ""
    return (
        f"run {bound.run_id} of workflow '{bound.workflow.name}' has not ended within {within_s} s (timeout) and is "
        "cancelled; give it more time, or keep it with Session.submit and ask for its outcome again"
    )


def _is_its_own(future: Future) -> bool:
    """Whether a run has failed by itself: what it raised may look like a lost connection, or like a lost runtime."""
    return bool(future.status == "error")
