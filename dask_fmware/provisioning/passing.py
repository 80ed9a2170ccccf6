"""How much of a rise of the load to believe, learnt from what became of the latest rises.

The first look at a burst and at a step is the same. What tells them apart is what rises were worth before: one was
worth a start if there was half as much again in the time in which its replica would have been there unused, from when
it had loaded until it may go. Bursts that come again within that time are worth it too. Where most rises were not, only
as many calls are expected of the next one as came before it, until it has lasted for as long as a start takes. That
costs little if it lasts, as its calls are counted as soon as they are there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf

from dask_fmware.provisioning.forecast import Peak

__all__ = ["Passing"]

RISE = 1.5  # times the highest rate that there was, and the mean: a silence that ends is no rise
MEAN_S = 600.0  # over which it is taken
KEPT = 5  # rises: so few that a load of another kind is soon seen
FEWEST = 2


@dataclass(slots=True)
class _Rise:
    since: float
    before: float  # runs a second
    top: float
    is_judged: bool = False


class Passing:
    """The latest rises of one workflow.

    Examples
    --------
    >>> passing = Passing()
    >>> for second in range(1, 601):
    ...     believed = passing.observe(float(second), 10.0 if second % 200 < 2 else 0.1, lead_s=7.0, span_s=20.0)
    >>> round(believed, 2)  # the third burst: two were over before a replica was ready
    0.02
    """

    __slots__ = ("_began", "_lasted", "_mean", "_peak", "_peaked", "_rise", "_seen")

    def __init__(self) -> None:
        self._peak = Peak()
        self._peaked = 0.0  # at the last look
        self._mean = 0.0
        self._began = self._seen = -inf  # first and last look
        self._rise: _Rise | None = None  # the latest, while it may be doubted
        self._lasted: deque[bool] = deque(maxlen=KEPT)

    def observe(self, now: float, rate: float, lead_s: float, span_s: float) -> float:
        """Take in a rate and return the share of it to expect, 0..1.

        Parameters
        ----------
        now
            The time.
        rate
            Runs a second.
        lead_s
            How long a start takes.
        span_s
            How long a replica stays that is not needed.
        """
        before = max(self._peaked, self._mean)
        if (self._rise is None or self._rise.is_judged) and rate > RISE * before:
            self._rise = _Rise(now, before, rate)
        self._remember(now, rate, span_s)
        if (rise := self._rise) is None:
            return 1.0
        rise.top = max(rise.top, rate) if now < rise.since + lead_s else rise.top
        if now >= rise.since + lead_s and not rise.is_judged:
            lasted = rate > rise.top / 2
            if lasted or now > rise.since + lead_s + span_s:
                self._lasted.append(lasted)
                rise.is_judged = True
            self._rise = None if lasted else rise
        elif now > rise.since + lead_s + 2 * span_s:  # peaks have forgotten it
            self._rise = None
        passed = self._lasted.count(False)
        doubted = self._rise is not None and passed >= FEWEST and passed > len(self._lasted) / 2
        return rise.before / rise.top if doubted else 1.0

    def _remember(self, now: float, rate: float, span_s: float) -> None:
        self._peaked = self._peak.observe(now, rate, span_s)
        if self._seen == -inf:
            self._began = now
        elif now > self._seen:
            self._mean += (rate - self._mean) * min((now - self._seen) / min(now - self._began, MEAN_S), 1.0)
        self._seen = now
