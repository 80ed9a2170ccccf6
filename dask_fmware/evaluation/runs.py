"""Runs of workflows by the thousand: submitted, followed and collected in batches, awaited one by one.

One message for twenty runs costs the scheduler and the client little more than one for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Client, Future, as_completed

from dask_fmware.client.stream import run_id_of
from dask_fmware.compile.collection import BoundWorkflow
from dask_fmware.errors import NotInstalledError, RuntimeFaultError, VersionMismatchError
from dask_fmware.model.report import RunReport

__all__ = ["Outcome", "Runs"]

BATCH_S = 0.01  # what comes within this is one batch
FATAL = (NotInstalledError, VersionMismatchError)  # no run will do better


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: its value, or its error; and its report, if the runtime had one."""

    run_id: str
    value: Any
    error: Exception | None
    report: RunReport | None


class Runs:
    """Runs workflows on a cluster; `run` is awaited, `serve` must run beside it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pending: list[tuple[BoundWorkflow, asyncio.Future[Outcome]]] = []
        self._waiters: dict[Future, asyncio.Future[Outcome]] = {}
        self._completed = as_completed(loop=client.loop)
        self._wake = asyncio.Event()
        self._collecting: set[asyncio.Task[None]] = set()

    async def run(self, bound: BoundWorkflow) -> Outcome:
        """Submit a run and return what came of it; cancelling this cancels the run."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending.append((bound, waiter))
        self._wake.set()
        return await waiter

    async def serve(self) -> None:
        """Submit and follow runs until cancelled.

        Raises
        ------
        RuntimeFaultError
            If the scheduler or the runtime is lost.
        """
        following = [asyncio.ensure_future(self._submit()), asyncio.ensure_future(self._follow())]
        try:
            while True:
                ended, _ = await asyncio.wait([*following, *self._collecting], return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    self._collecting.discard(task)
                    task.result()
        finally:
            for task in [*following, *self._collecting]:
                task.cancel()
            for future in list(self._waiters):
                future.release()
            self._waiters.clear()
            self._completed.clear()

    async def _submit(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(BATCH_S)
            self._wake.clear()
            pending = [(bound, waiter) for bound, waiter in self._pending if not waiter.done()]
            self._pending.clear()
            if not pending:
                continue
            futures = self._client.compute([bound for bound, _ in pending])
            for future, (_, waiter) in zip(futures, pending, strict=True):
                self._waiters[future] = waiter
                waiter.add_done_callback(partial(self._abandoned, future))
            self._completed.update(futures)

    def _abandoned(self, future: Future, waiter: asyncio.Future[Outcome]) -> None:
        if waiter.cancelled():
            self._waiters.pop(future, None)
            future.release()

    async def _follow(self) -> None:
        while True:
            if not self._completed.count():
                await asyncio.sleep(BATCH_S)
                continue
            first = await anext(self._completed)
            await asyncio.sleep(BATCH_S)
            ended = [f for f in (first, *self._completed.next_batch(block=False)) if f in self._waiters]
            if any(future.cancelled() for future in ended):
                raise self.lost()
            if ended:
                waiters = {future: self._waiters.pop(future) for future in ended}
                self._collecting.add(asyncio.ensure_future(self._collect(waiters)))

    async def _collect(self, waiters: dict[Future, asyncio.Future[Outcome]]) -> None:
        """Fetch results and reports of runs that ended, and let go of them."""
        futures = list(waiters)
        try:
            reports = await self._reports([run_id_of(future) for future in futures])
            values = await self._values(futures)
        except OSError as error:
            raise self.lost() from error
        for future, value in zip(futures, values, strict=True):
            run_id = run_id_of(future)
            failure = value if isinstance(value, Exception) else None
            if isinstance(failure, FATAL):
                raise failure
            waiter = waiters[future]
            if not waiter.done():
                waiter.set_result(Outcome(run_id, None if failure else value, failure, reports.get(run_id)))
            future.release()

    async def _reports(self, run_ids: Sequence[str]) -> dict[str, RunReport]:
        wire = await self._client.scheduler.fmware_reports(run_ids=list(run_ids))
        if wire is None:
            raise NotInstalledError(
                f"the runtime at {self._client.scheduler.address} was uninstalled during the evaluation; install it, "
                "and run the same again"
            )
        return {item["run_id"]: RunReport.from_wire(item) for item in wire}

    async def _values(self, futures: Sequence[Future]) -> list[Any]:
        """Results of futures in their order, an exception where there is one."""
        sound = [future for future in futures if future.status != "error"]
        try:
            got = dict(zip(sound, await self._client.gather(sound), strict=True)) if sound else {}
        except Exception:  # a result was lost and could not be made again: find out whose
            got = {}
        return [got[future] if future in got else await self._value(future) for future in futures]

    async def _value(self, future: Future) -> Any:
        try:
            return await future.result()
        except OSError:
            raise
        except Exception as error:
            return error

    def lost(self) -> RuntimeFaultError:
        """Return the error for a scheduler that is gone."""
        address = self._client.scheduler.address if self._client.scheduler is not None else "the scheduler"
        return RuntimeFaultError(
            f"the connection to {address} was lost; all recorded rows are safe: start the cluster, and run the same "
            "again to go on"
        )
