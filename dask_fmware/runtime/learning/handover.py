"""What the way to an engine costs: between a decision and the first token, beyond the engine's own time.

Messages, inputs that are fetched and processes that wake up take milliseconds. A plan that reckons without them
is late by just these, so they are measured: on replicas that run one call at a time, where nothing else is the cause.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

__all__ = ["HandOver"]

REMEMBERED = 100
QUANTILE = 0.9


class HandOver:
    """A high quantile of the latest delays of one kind of replica, in seconds.

    >>> handover = HandOver()
    >>> for ms in range(10):
    ...     handover.observe(ms / 1000)
    >>> handover.delay_s
    0.009
    """

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []
        self.delay_s = 0.0

    def observe(self, delay_s: float) -> None:
        """Take note of a delay; an engine that was quicker than its law had none."""
        delay_s = max(delay_s, 0.0)
        if len(self._latest) == REMEMBERED:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]
        self._latest.append(delay_s)
        insort(self._ordered, delay_s)
        self.delay_s = self._ordered[int(QUANTILE * len(self._ordered))]
