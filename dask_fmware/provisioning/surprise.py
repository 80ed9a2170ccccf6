"""How much more came than was foreseen when there was still time to start a replica for it.

A load that jumps cannot be foreseen over a long load time, but how far it jumps can be learnt: forecasts are held
against what came, and the room for what was too little of them is kept.

For how much of the time they may be too little is learnt as well. What has queued meanwhile makes runs late for longer
than the forecast was short, so that share follows the runs that are late: each minute with more of them than may be
makes it smaller, each with fewer larger (Gibbs and Candes, *Adaptive Conformal Inference Under Distribution Shift*,
2021).
"""

from __future__ import annotations

from collections import deque

from dask_fmware.provisioning.forecast import spread

__all__ = ["Surprise"]

EVERY_S = 60.0
KEPT = 720  # twelve hours of them
FEWEST = 30
NOISE = 2.0  # standard deviations of a rate that surprise nobody
MOST = 2.0
PACE = 0.005  # at which the share of the time follows: ten minutes with all runs late are 5 % of it


class Surprise:
    """A factor of 1 and more for the forecasts of one workflow.

    Parameters
    ----------
    miss
        Share of the runs that may be late, and so of the time in which more may come than is planned for, at most.

    Examples
    --------
    >>> surprise = Surprise(0.05)
    >>> for minute in range(120):
    ...     factor = surprise.observe(60.0 * minute, 300.0, foreseen=10.0, rate=15.0 if minute % 10 == 0 else 10.0)
    >>> 1.3 < factor < 1.5
    True
    """

    __slots__ = ("_due", "_factor", "_miss", "_next", "_ratios", "_short")

    def __init__(self, miss: float) -> None:
        self._miss = miss
        self._short = miss  # share of the time in which more may come
        self._due: deque[tuple[float, float]] = deque()  # for when, how much
        self._ratios: deque[float] = deque(maxlen=KEPT)
        self._next = 0.0
        self._factor = 1.0

    def observe(self, now: float, lead_s: float, foreseen: float, rate: float, late: float | None = None) -> float:
        """Take in what is foreseen and what comes, and return the factor.

        Parameters
        ----------
        now
            The time.
        lead_s
            For when from now on `foreseen` is.
        foreseen, rate
            Runs a second, then and now.
        late
            Share of the runs that ended in the last minute that were late; None if there were none.
        """
        if now < self._next:
            return self._factor
        self._next = now + EVERY_S
        self._due.append((now + lead_s, foreseen))
        if late is not None:
            self._short = min(max(self._short + PACE * (self._miss - late), 0.0), self._miss)
        said = 0.0
        while self._due and self._due[0][0] <= now:
            said = self._due.popleft()[1]
        if said > 0:
            self._ratios.append(rate / (said * (1 + NOISE * spread(rate))))
            if len(self._ratios) >= FEWEST:
                in_order = sorted(self._ratios)
                self._factor = min(max(in_order[int((1 - self._short) * (len(in_order) - 1))], 1.0), MOST)
        return self._factor
