"""How much more room than the projection says is needed, learnt from runs that were late all the same.

A slow integral: laws are off, calls clump, engines stall. Only what is seen while nothing is starting counts, since
runs that are late for want of a replica that loads say nothing about the projection.
"""

from __future__ import annotations

from collections.abc import Mapping

from dask_fmware.provisioning.steps import Stock
from dask_fmware.provisioning.views import ModelLoad

__all__ = ["Pressure"]

EVERY_S = 10.0
UP, DOWN = 1.06, 0.997
MOST = 3.0
SETTLED_S = 60.0  # after the last start, when the runs that were late for it are out of sight
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
        self._unsettled: dict[str, float] = {}  # model -> when it was last seen short of a replica

    def of(self, model: str) -> float:
        """Factor of a model."""
        return self._factors.get(model, 1.0)

    def update(self, loads: Mapping[str, ModelLoad], stock: Stock, now: float) -> dict[str, float]:
        """Take in what came of the runs of the last minute; return all factors."""
        for (model, accelerator), count in stock.counts.items():
            if stock.ready.get((model, accelerator), 0) < count:
                self._unsettled[model] = now
        if self._due is None or now >= self._due:
            self._due = now + EVERY_S
            for model, load in loads.items():
                if now - self._unsettled.get(model, -1e18) < SETTLED_S or load.ended < FEWEST:
                    continue
                late = load.missed / load.ended
                factor = self.of(model)
                if late > self._miss:
                    factor *= UP if late < 4 * self._miss else UP**2
                elif late < self._miss / 2:
                    factor *= DOWN
                self._factors[model] = min(max(factor, 1.0), MOST)
        return dict(self._factors)
