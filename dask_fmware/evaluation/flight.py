"""A row under way: the runs that it waits for, its own and then those of its judges.

They are background work until the row is promoted: those that have not ended are then cancelled, and asked for again
with a deadline. When that is, and which deadline, others say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from dask_fmware.client.session import Outcome
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.sources.source import Row
from dask_fmware.spec.slo import SLO

__all__ = ["Flight", "promotable"]


@dataclass(eq=False, slots=True)
class Flight:
    """A row under way."""

    record: Record
    row: Row
    started_at: float
    is_urgent: bool = False  # its runs have a deadline
    is_promoted: bool = False  # they were in the background before
    _background: set[asyncio.Task[Outcome]] = field(default_factory=set)  # runs that have not ended

    @property
    def waits(self) -> bool:
        """Whether a run of it is in the background; a row may also wait for its record, or have just been answered."""
        return any(not run.done() for run in self._background)

    def promote(self) -> None:
        """Have its runs asked for again, with a deadline."""
        self.is_promoted = self.is_urgent = True
        for run in self._background:
            run.cancel()

    async def outcome(
        self, run: Callable[[SLO | None], Coroutine[Any, Any, Outcome]], objective: Callable[[], SLO | None]
    ) -> Outcome:
        """Run something for the row.

        Parameters
        ----------
        run
            Runs it, with a deadline or in the background.
        objective
            The deadline that it would be given at the moment; one, for a row that is promoted.
        """
        slo = objective()
        if slo is None:
            waiting = asyncio.ensure_future(run(None))
            self._background.add(waiting)
            try:
                return await waiting
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self.is_promoted or (task is not None and task.cancelling()):
                    raise
            finally:
                self._background.discard(waiting)
            slo = objective()
        self.is_urgent = True
        return await run(slo)


def promotable(flights: Iterable[Flight], count: int, now: float, patience_s: float) -> list[Flight]:
    """Return up to `count` rows that have waited in the background for longer than that, the oldest first."""
    waiting = [f for f in flights if not f.is_urgent and now - f.started_at > patience_s and f.waits]
    return sorted(waiting, key=lambda f: f.started_at)[:count]
