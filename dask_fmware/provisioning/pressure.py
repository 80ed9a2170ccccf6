"""How much more room than the projection says is needed, learnt from runs that were late all the same.

A slow integral: laws are off, calls clump, engines stall. Only what is seen while the replicas have stayed the same
counts, since runs that were late for want of one that was loading say nothing about the projection; and what has
raised it counts once, as its effect cannot be seen before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from dask_fmware.provisioning.steps import Key, Stock
from dask_fmware.provisioning.views import ModelLoad

__all__ = ["Pressure"]

EVERY_S = 10.0
UP, DOWN = 1.12, 0.997
MOST = 3.0
SETTLED_S = 60.0  # after the last start or raise, when the runs that were late before it are out of sight
FEWEST = 20  # runs that say anything


class Pressure:
    """By model, a factor of 1 and more.

    Parameters
    ----------
    miss
        Share of runs that may be late.
    """

    def __init__(self, miss: float) -> None:
        self._miss = miss
        self._factors: dict[str, float] = {}
        self._due: float | None = None
        self._ready: dict[str, int] = {}
        self._unsettled: dict[str, float] = {}  # model -> when it last was short of a replica, got one, or was raised

    def of(self, model: str) -> float:
        """Factor of a model."""
        return self._factors.get(model, 1.0)

    def update(self, loads: Mapping[str, ModelLoad], stock: Stock, now: float) -> dict[str, float]:
        """Take in what came of the runs of the last minute; return all factors."""
        counts, ready = (_by_model(replicas) for replicas in (stock.counts, stock.ready))
        for model, count in counts.items():
            if not self._ready.get(model, 0) >= ready[model] == count:
                self._unsettled[model] = now
        self._ready = ready
        if self._due is None or now >= self._due:
            self._due = now + EVERY_S
            for model, load in loads.items():
                if now - self._unsettled.get(model, -1e18) < SETTLED_S or load.ended < FEWEST:
                    continue
                late = load.missed / load.ended
                factor = self.of(model)
                if late > self._miss:
                    factor *= UP if late < 4 * self._miss else UP**2
                    self._unsettled[model] = now
                elif late < self._miss / 2:
                    factor *= DOWN
                self._factors[model] = min(max(factor, 1.0), MOST)
        return dict(self._factors)


def _by_model(replicas: Mapping[Key, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (model, _), count in replicas.items():
        counts[model] += count
    return counts
