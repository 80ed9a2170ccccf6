"""Bounds on how long calls take that hold as often as they say, learnt from predictions and what came of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from functools import partial
from math import ceil

from dask_fmware.errors import SpecError

__all__ = ["ConformalQuantile", "RatioQuantile", "load_band"]

HIGHEST = 2.0  # level of a quantile


def load_band(running: int, waiting: int, slots: int) -> int:
    """Band of load in which errors are alike: 0 idle, 1 half full, 2 full, from 3 on each doubling of the queue."""
    if waiting <= 0:
        return 0 if running <= 0 else 1 if 2 * running <= slots else 2
    return 3 + min((waiting - 1).bit_length(), 5)


class RatioQuantile:
    """A factor that lifts predictions so that a share `quantile` of what follows stays below.

    Rolling conformal prediction: the factor is a rank among the latest ratios of measured to predicted. Ratios drift,
    so that rank alone would lag: after each miss the level moves up a little and after each hit down (Gibbs and Candès,
    Adaptive conformal inference, 2021), which brings the long-run share to `quantile`. `factor` is 1 while nothing is
    known, and worked out when something is learnt, since it is read more often.

    Parameters
    ----------
    quantile
        In (0, 1).
    window
        Ratios that are kept.
    step
        How far one miss moves the level.
    needed
        Ratios before the level moves.
    """

    __slots__ = ("_fall", "_latest", "_least", "_level", "_needed", "_ordered", "_rise", "_window", "factor")

    def __init__(self, quantile: float = 0.9, window: int = 300, step: float = 0.01, needed: int = 20) -> None:
        if not 0.0 < quantile < 1.0:
            raise SpecError(f"a quantile must lie in (0, 1), got {quantile}")
        self.factor = 1.0
        self._level = quantile
        self._least = quantile / 2
        self._rise, self._fall = step * (1.0 - (1.0 - quantile)), step * -(1.0 - quantile)
        self._window = window
        self._needed = needed
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._latest)

    def observe(self, predicted_s: float, measured_s: float) -> None:
        """Take note of a prediction (before `factor`) and what came of it."""
        if predicted_s > 0 and measured_s >= 0:
            self.add(measured_s / predicted_s)

    def add(self, ratio: float, missed: bool | None = None) -> None:
        """Take note of a ratio, and of whether it was above what had been told; None: whether it is above `factor`."""
        latest, ordered, level = self._latest, self._ordered, self._level
        if len(latest) >= self._needed:
            if missed is None:
                missed = ratio > self.factor
            level += self._rise if missed else self._fall
            self._level = level = self._least if level < self._least else HIGHEST if level > HIGHEST else level
        latest.append(ratio)
        insort(ordered, ratio)
        if len(latest) > self._window:
            del ordered[bisect_left(ordered, latest.popleft())]
        count = len(ordered)
        rank = ceil(level * (count + 1))  # of one more than the data, because the next point is one of them
        read = ordered[0 if rank < 1 else rank - 1 if rank < count else -1]
        self.factor = read * level if level > 1.0 else read  # more than ever seen: else misses at the top teach nothing


class ConformalQuantile:
    """`RatioQuantile` by band of load, see `load_band`.

    A band of which `needed` ratios are not known borrows from all bands.
    """

    def __init__(self, quantile: float = 0.9, window: int = 300, step: float = 0.01, needed: int = 20) -> None:
        self.quantile = quantile
        self._needed = needed
        self._new = partial(RatioQuantile, quantile, window, step, needed)
        self._bands: dict[int, RatioQuantile] = {}
        self._all = self._new()

    def factor(self, band: int) -> float:
        """Return the factor on a prediction in `band`; 1 while nothing is known."""
        known = self._bands.get(band)
        return self._all.factor if known is None or len(known) < self._needed else known.factor

    def observe(self, band: int, predicted_s: float, measured_s: float, bound_s: float | None = None) -> None:
        """Take note of a prediction (before `factor`) and what came of it.

        `bound_s` is the bound that was given for it. Without, it is judged by today's ratios, which flatters:
        they have seen what came between the prediction and its end.
        """
        if predicted_s <= 0 or measured_s < 0:
            return
        known = self._bands.get(band)
        if known is None:
            known = self._bands[band] = self._new()
        ratio, missed = measured_s / predicted_s, None if bound_s is None else measured_s > bound_s
        known.add(ratio, missed)
        self._all.add(ratio, missed)

    def samples(self, band: int) -> int:
        """Ratios known in a band."""
        return len(self._bands.get(band, ()))
