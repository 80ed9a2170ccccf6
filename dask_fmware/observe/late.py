"""Which runs under way are late already: while nothing serves no run ends, and all that ended were in time.

A heap says when each may be late next. It is looked at when somebody asks, and only as far as it is due.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from dask_fmware.model.bounds import left_s
from dask_fmware.model.report import RunReport

__all__ = ["Late", "Who"]

Who: TypeAlias = tuple[str, str]  # workflow and tenant, as they are counted

AGAIN_S = 10.0  # after which a run that has kept its bounds is looked at again: it may have lost the attempt that did
AT_ONCE = 1000  # runs that one look goes through, of up to 50 calls, in some milliseconds; the others are of the next
CALLS = 50


@dataclass(slots=True)
class _Run:
    """A run under way that was promised something."""

    report: RunReport
    who: Who
    due: float = 0.0  # seconds since the epoch, when it is to be looked at
    is_late: bool = False


class Late:
    """Finds runs that are late before they end, and counts them until they do."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._heap: list[tuple[float, str]] = []  # due, run; those of runs that ended are passed over
        self._counts: Counter[Who] = Counter()

    def began(self, report: RunReport, who: Who) -> None:
        """A run is under way, for the first time or again."""
        if report.deadline_s is not None:
            self._runs[report.run_id] = run = _Run(report, who)
            self._await(run, report.submitted + report.deadline_s)

    def ended(self, run_id: str) -> None:
        """A run is judged by its end from now on."""
        run = self._runs.pop(run_id, None)
        if run is not None and run.is_late:
            self._counts[run.who] -= 1
            if not self._counts[run.who]:
                del self._counts[run.who]
        if len(self._heap) > 2 * len(self._runs):
            self._heap = [(run.due, run_id) for run_id, run in self._runs.items() if not run.is_late]
            heapify(self._heap)

    def counts(self, now: float) -> Counter[Who]:
        """Late runs by workflow and tenant."""
        left = float(AT_ONCE)
        while left > 0.0 and self._heap and self._heap[0][0] < now:
            due, run_id = heappop(self._heap)
            run = self._runs.get(run_id)
            left -= 1.0
            if run is not None and run.due == due:
                left -= len(run.report.calls) / CALLS
                self._look(run, now)
        return self._counts.copy()

    def _look(self, run: _Run, now: float) -> None:
        left = left_s(run.report, now - run.report.submitted)
        if left is not None and left < 0.0:
            run.is_late = True
            self._counts[run.who] += 1
        else:
            self._await(run, now + (AGAIN_S if left is None else left))

    def _await(self, run: _Run, due: float) -> None:
        run.due = due
        heappush(self._heap, (due, run.report.run_id))
