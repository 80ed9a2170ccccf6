"""Gives rows a deadline where they would come too late in the background: it is told of each that starts and ends.

How long rows take is measured on a clock that nobody sets; the moment to finish by is one of the calendar.
"""

from __future__ import annotations

from time import monotonic, time

from dask_fmware.evaluation.flight import Flight, promotable
from dask_fmware.evaluation.pace import Pace
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.sources.source import Row
from dask_fmware.spec.slo import SLO

__all__ = ["Pacer"]

SMOOTHING = 0.05  # of the mean time that a row takes
JUDGED_S = 10.0  # times a row's own that its judges may take
PATIENCE = 2.0  # times a row's own that it, or its judges, wait in the background before they are given a deadline


class Pacer:
    """Knows the rows under way and how late they are.

    Parameters
    ----------
    finish_by
        Seconds since 1970; None where all rows are background work.
    rows
        To be done by then.

    Attributes
    ----------
    flights
        Rows under way, until they are answered and judged.
    """

    def __init__(self, finish_by: float | None, rows: int | None) -> None:
        self.flights: set[Flight] = set()
        self._pace = None if finish_by is None or rows is None else Pace(time(), finish_by, rows)
        self._answered = 0
        self._row_s = 1.0  # a row takes, about, without its judges

    def start(self, record: Record, row: Row) -> Flight:
        """Return a row that is under way from now on."""
        flight = Flight(record, row, monotonic())
        self.flights.add(flight)
        return flight

    def ran(self, flight: Flight) -> None:
        """Note that the run of a row has ended; its judges come now."""
        self._row_s += SMOOTHING * (monotonic() - flight.started_at - self._row_s)

    def end(self, flight: Flight) -> None:
        """Note that a row is answered and judged; to record it takes no capacity that a deadline could win."""
        self.flights.discard(flight)
        self._answered += 1

    def objective(self, flight: Flight) -> SLO | None:
        """Return the deadline of a row, or None: it can wait."""
        pace, now = self._pace, time()
        if pace is None:
            return None
        promised = sum(other.is_urgent for other in self.flights if other is not flight)
        if not flight.is_promoted and not pace.lag(self._answered, promised, now, self._row_s):
            return None
        return SLO(e2e_s=pace.deadline_s(self._answered + promised + 1, now, self._row_s))

    def judges_objective(self, flight: Flight) -> SLO | None:
        """Return the deadline of what judges a row: they are as urgent as it is."""
        return SLO(e2e_s=JUDGED_S * self._row_s) if flight.is_urgent else None

    def promote(self) -> None:
        """Give rows that wait in the background a deadline, where fresh rows alone do not keep the line."""
        if self._pace is None:
            return
        lag = self._pace.lag(self._answered, sum(f.is_urgent for f in self.flights), time(), self._row_s)
        for flight in promotable(self.flights, lag, monotonic(), PATIENCE * self._row_s):
            flight.promote()
