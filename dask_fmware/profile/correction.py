"""Bringing a profile up to date while a replica works: factors on the law, honest quantiles, and drift.

A `Correction` scales the two parts of the law by recursive least squares, a `ConformalQuantile` turns a prediction
into a bound that holds as often as it says, a `DriftDetector` notices when a replica has left its profile and since
when. They take predicted and measured seconds; the time is passed in and nothing here knows whose replica it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, exp, log

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import StepLaw

__all__ = [
    "ConformalQuantile",
    "Correction",
    "Drift",
    "DriftDetector",
    "RatioQuantile",
    "ReplicaSpeed",
    "load_band",
]

LEAST, MOST = 0.05, 50.0  # bounds of a factor: beyond them the profile is of something else
HIGHEST = 2.0  # level of a conformal quantile
UNSURE = 1.0  # variance of a factor before anything was seen, and after any step at most
CHANGE = 1.5, 15.0  # ratio to the corrected law, and steps at it (fewer further off), after which it is learnt anew
CHANGED = 10.0  # variance of a factor that no longer holds: what was known of it counts for a tenth of a step


@dataclass(frozen=True, slots=True)
class Correction:
    """Factors on the decode and the prefill part of a law, learned from finished steps.

    Recursive least squares on relative errors. Old steps fade by `forgetting`, so that about
    ``1 / (1 - forgetting)`` steps count; the uncertainty is capped, or a replica that only decodes would forget all it
    knows of prefill and jump at the first prompt.

    Examples
    --------
    >>> correction = Correction()
    >>> for _ in range(100):
    ...     correction = correction.updated(decode_s=0.01, prefill_s=0.0, measured_s=0.016)
    >>> round(correction.decode, 2), correction.prefill
    (1.6, 1.0)
    """

    decode: float = 1.0  # measured over profiled time of the decode part
    prefill: float = 1.0  # and of the prefill part
    forgetting: float = 0.97  # 0..1, weight of the past after one step
    decode_variance: float = UNSURE  # how unsure the factors are, and together
    covariance: float = 0.0
    prefill_variance: float = UNSURE

    def __post_init__(self) -> None:
        if not 0.0 < self.forgetting <= 1.0:
            raise SpecError(f"forgetting of a correction must lie in (0, 1], got {self.forgetting}")

    def updated(self, decode_s: float, prefill_s: float, measured_s: float) -> Correction:
        """Return the correction after one more step (or sum of steps).

        Parameters
        ----------
        decode_s, prefill_s
            The two parts that the *uncorrected* law gives: `StepLaw.step_s` without prefill, `StepLaw.prefill_s`.
        measured_s
            What it took.
        """
        total_s = decode_s + prefill_s
        if total_s <= 0 or measured_s <= 0:
            return self
        x, y = decode_s / total_s, prefill_s / total_s
        to_decode = self.decode_variance * x + self.covariance * y
        to_prefill = self.covariance * x + self.prefill_variance * y
        scale = self.forgetting + x * to_decode + y * to_prefill
        error = min(measured_s / total_s, MOST) - self.decode * x - self.prefill * y
        decode_variance = (self.decode_variance - to_decode * to_decode / scale) / self.forgetting
        covariance = (self.covariance - to_decode * to_prefill / scale) / self.forgetting
        prefill_variance = (self.prefill_variance - to_prefill * to_prefill / scale) / self.forgetting
        shrink_x = min(1.0, (UNSURE / decode_variance) ** 0.5)
        shrink_y = min(1.0, (UNSURE / prefill_variance) ** 0.5)
        return Correction(
            min(max(self.decode + error * to_decode / scale, LEAST), MOST),
            min(max(self.prefill + error * to_prefill / scale, LEAST), MOST),
            self.forgetting,
            decode_variance * shrink_x * shrink_x,
            covariance * shrink_x * shrink_y,
            prefill_variance * shrink_y * shrink_y,
        )

    def unsettled(self) -> Correction:
        """Return the same factors so unsure that the next steps decide, for an engine whose speed has changed."""
        return replace(self, decode_variance=CHANGED, covariance=0.0, prefill_variance=CHANGED)

    def corrected(self, law: StepLaw) -> StepLaw:
        """Return the law with both factors applied."""
        return law.scaled(self.decode, self.prefill)


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


@dataclass(frozen=True, slots=True)
class Drift:
    """A replica that runs off its profile."""

    ratio: float  # measured over predicted since then; above 1 is slower
    since_s: float  # on the clock of whoever observed

    def sentence(self, replica: str, accelerator: str, since: str) -> str:
        """Tell people; `since` is `since_s` as they read time.

        >>> Drift(1.6, 100.0).sentence("r3", "L4", "14:02")
        'replica r3 on L4 runs 1.6 times its profile since 14:02'
        """
        return f"replica {replica} on {accelerator} runs {self.ratio:.1f} times its profile since {since}"


class DriftDetector:
    """Notices a lasting change of the ratio of measured to profiled time, and when it began.

    Two cumulative sums of the log ratio, one for slower and one for faster (Page 1954): each grows while the
    ratio exceeds half of `least` and is reset by what contradicts it, so that its last reset dates the change.
    A drift begins at the alarm and ends at half of it, lest a noisy engine be told of again and again.

    Parameters
    ----------
    least
        Ratio worth telling, above 1.
    patience
        Steps at a ratio of `least` until it is told; the further off, the sooner.
    """

    def __init__(self, least: float = 1.25, patience: float = 20.0) -> None:
        if least <= 1.0 or patience <= 0:
            raise SpecError(f"a drift needs least > 1 and patience > 0, got {least} and {patience}")
        self._allowance = log(least) / 2
        self._alarm = patience * self._allowance
        self._sums = {1: 0.0, -1: 0.0}
        self._lasts = {1: False, -1: False}
        self._since_s: dict[int, float | None] = {1: None, -1: None}
        self._log_mean = {1: 0.0, -1: 0.0}

    def observe(self, ratio: float, now_s: float) -> Drift | None:
        """Take note of a step that took `ratio` times its profile; returns the drift that lasts, if any."""
        if ratio <= 0:
            return self.drift
        for sign in (1, -1):
            size = sign * log(ratio)
            before = self._sums[sign]
            # capped: recovery is noticed as soon as drift is, however long it lasted
            self._sums[sign] = min(max(before + size - self._allowance, 0.0), 1.5 * self._alarm)
            self._lasts[sign] = self._sums[sign] >= (0.5 if self._lasts[sign] else 1.0) * self._alarm
            if self._sums[sign] == 0.0:
                self._since_s[sign], self._log_mean[sign] = None, 0.0
                continue
            if self._since_s[sign] is None:
                self._since_s[sign], self._log_mean[sign] = now_s, size
            self._log_mean[sign] += 0.1 * (size - self._log_mean[sign])
        return self.drift

    @property
    def drift(self) -> Drift | None:
        """What lasts at present."""
        for sign in (1, -1):
            since_s = self._since_s[sign]
            if since_s is not None and self._lasts[sign]:
                return Drift(exp(sign * self._log_mean[sign]), since_s)
        return None


class ReplicaSpeed:
    """How fast a replica runs beside its profile, learnt from steps or sums of steps.

    Parameters
    ----------
    correction
        What it is taken to be like before any of its steps is known.
    """

    __slots__ = ("_change", "correction", "detector")

    def __init__(self, correction: Correction | None = None) -> None:
        self.correction = Correction() if correction is None else correction
        self.detector = DriftDetector()  # of the profile
        self._change = DriftDetector(*CHANGE)  # of the law as it is corrected

    def observe(self, decode_s: float, prefill_s: float, measured_s: float, now_s: float) -> None:
        """Take note of what the profile says of a step and of what it took, all above 0 in sum."""
        corrected_s = self.correction.decode * decode_s + self.correction.prefill * prefill_s
        if self._change.observe(measured_s / corrected_s, now_s) is not None:
            self.correction, self._change = self.correction.unsettled(), DriftDetector(*CHANGE)
        self.correction = self.correction.updated(decode_s, prefill_s, measured_s)
        self.detector.observe(measured_s / (decode_s + prefill_s), now_s)
