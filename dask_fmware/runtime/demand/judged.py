"""How many runs of the last minute ended, and how many of them were late, by the models that they called."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Set

__all__ = ["WINDOW_S", "JudgedRuns"]

WINDOW_S = 60


class JudgedRuns:
    """Counts by second, as old as `WINDOW_S` at most."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Counter[str], Counter[str]]] = deque()  # second, ended, missed by model

    def add(self, models: Set[str], met: bool, now: float) -> None:
        """A run that called these models has ended; `met` says whether it kept its objective."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, Counter(), Counter()))
            self._forget(now)
        _, ended, missed = self._seconds[-1]
        ended.update(models)
        if not met:
            missed.update(models)

    def counts(self, now: float) -> tuple[Counter[str], Counter[str]]:
        """Return runs that ended and runs that missed their objective, by model."""
        self._forget(now)
        ended: Counter[str] = Counter()
        missed: Counter[str] = Counter()
        for _, some, late in self._seconds:
            ended.update(some)
            missed.update(late)
        return ended, missed

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] < now - WINDOW_S:
            self._seconds.popleft()
