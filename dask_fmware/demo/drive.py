"""Submits planned runs on time and collects their reports. Open loop: a slow cluster gets no fewer arrivals.

One client, one loop; a run's future is released as soon as its report is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distributed import Client, Future

from dask_fmware.client.fetching import fetched
from dask_fmware.client.report import report
from dask_fmware.compile.collection import BoundWorkflow
from dask_fmware.demo.schedule import PlannedRun
from dask_fmware.errors import FMwareError
from dask_fmware.model.report import RunReport

__all__ = ["DrivenRun", "Tally", "drive"]


@dataclass(frozen=True, slots=True)
class DrivenRun:
    """A run that has ended."""

    planned: PlannedRun
    submitted_s: float  # when it was submitted, since the start of the load
    report: RunReport
    error: str = ""  # type and message, if it failed


@dataclass(slots=True)
class Tally:
    """How far a load is; changes while it runs."""

    planned: int
    submitted: int = 0
    ended: int = 0
    met: int = 0
    failed: int = 0
    runs: list[DrivenRun] = field(default_factory=list)


async def drive(
    client: Client, planned: Sequence[PlannedRun], bind: Callable[[PlannedRun], BoundWorkflow], tally: Tally
) -> list[DrivenRun]:
    """Submit each run at its time and return all of them, in order, when the last has ended.

    Parameters
    ----------
    client
        Asynchronous.
    planned
        In the order of their arrival.
    bind
        Makes the bound workflow of a run.
    tally
        Kept up to date.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.TaskGroup() as group:
        for run in planned:
            await asyncio.sleep(start + run.arrival_s - loop.time())
            future = client.compute(bind(run))
            submitted_s = loop.time() - start
            tally.submitted += 1
            group.create_task(_follow(future, run, submitted_s, tally))
    return sorted(tally.runs, key=lambda driven: driven.planned.index)


async def _follow(future: Future, planned: PlannedRun, submitted_s: float, tally: Tally) -> None:
    error = ""
    try:
        await fetched(future.result())
    except Exception as fault:  # of our tree, or of a task's code; it is shown with the run
        error = f"{type(fault).__name__}: {fault}" if isinstance(fault, FMwareError) else type(fault).__name__
    made: RunReport = (await report(future)).data
    future.release()
    tally.runs.append(DrivenRun(planned, submitted_s, made, error))
    tally.ended += 1
    tally.met += made.met is True
    tally.failed += made.state != "finished"
