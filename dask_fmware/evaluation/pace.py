"""How urgent the next row is: background, or with a deadline, so that all are done in time and no sooner than free.

Without `finish_by` every row is background and takes what nobody urgent wants. With it, the rows that must be done
by a moment lie on a line from none at the start to all at the end. As long as what is done in the background is ahead
of the line, nothing is urgent. Behind it, rows are submitted with a deadline: as many as bring the line back, each due
when the line reaches it. Late in a job, and when the cluster is full of urgent work, that is all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

__all__ = ["Pace"]

AHEAD = 0.1  # of the time, that the line ends early, for the last rows to come in
LEAST_S = 1.0  # a deadline is never closer than this


@dataclass(frozen=True, slots=True)
class Pace:
    """The line that a job keeps to.

    Parameters
    ----------
    start, finish_by
        Seconds of any one clock.
    rows
        To be done between them.
    """

    start: float
    finish_by: float
    rows: int

    @property
    def _line_s(self) -> float:
        return max((self.finish_by - self.start) * (1 - AHEAD), 1e-9)

    def due(self, now: float) -> int:
        """Rows that should be done by now."""
        return min(self.rows, max(0, floor(self.rows * (now - self.start) / self._line_s)))

    def lag(self, done: int, promised: int, now: float, horizon_s: float) -> int:
        """Rows to submit with a deadline now.

        Parameters
        ----------
        done
            Rows that have ended.
        promised
            Rows under way that have a deadline.
        now
            On the clock of `start`.
        horizon_s
            How long a row takes from submission to its end, about.
        """
        return max(0, self.due(now + horizon_s) - done - promised)

    def deadline_s(self, position: int, now: float, horizon_s: float) -> float:
        """Seconds from now until the line reaches a row: the `position`-th to be done."""
        at = self.start + self._line_s * position / max(self.rows, 1)
        last = max(self.finish_by - now, LEAST_S)
        return min(max(at - now, 2 * horizon_s, LEAST_S), last)
