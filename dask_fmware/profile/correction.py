"""Factors that bring a step-time law up to date while a replica works, by recursive least squares.

They take profiled and measured seconds; the time is passed in, and nothing here knows whose replica it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

from dask_fmware.errors import SpecError
from dask_fmware.profile.drift import DriftDetector
from dask_fmware.profile.law import StepLaw

__all__ = ["Correction", "ReplicaSpeed"]

LEAST, MOST = 0.05, 50.0  # bounds of a factor: beyond them the profile is of something else
UNSURE = 1.0  # variance of a factor before anything was seen, and after any step at most
MEMORIES = 0.99, 0.8  # forgetting of the corrections that are kept side by side: some 100 and 5 steps count
LATELY = 0.9  # weight of the past in how far each of them was off
SHARPNESS = 20.0  # what is off by 5 points more has a weight of 1/e


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
    forgetting: float = MEMORIES[0]  # 0..1, weight of the past after one step
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

    def corrected(self, law: StepLaw) -> StepLaw:
        """Return the law with both factors applied."""
        return law.scaled(self.decode, self.prefill)


PROFILED = Correction()


class ReplicaSpeed:
    """How fast a replica runs beside its profile, learnt from steps or sums of steps.

    How long what an engine did tells what it will do depends on where it runs: a minute on a card of its own, a second
    on a core that others use, and after a jump nothing of before. So corrections with a long and a short memory are
    kept beside the profile as it is, and weighed by how well they foretold the latest steps.

    Parameters
    ----------
    correction
        What it is taken to be like before any of its steps is known.

    Notes
    -----
    Exponentially weighted average forecaster with fading losses (Cesa-Bianchi and Lugosi, "Prediction, Learning, and
    Games", 2006, sections 2.1 and 2.11).
    """

    __slots__ = ("_known", "_off", "detector")

    def __init__(self, correction: Correction | None = None) -> None:
        begun = Correction() if correction is None else correction
        self._known = [*(replace(begun, forgetting=memory) for memory in MEMORIES), PROFILED]
        self._off = [0.0] * len(self._known)  # relative error of late, at most 1
        if begun != PROFILED:
            self._off[-1] = 1.0  # those of its kind are no more what was profiled
        self.detector = DriftDetector()  # of the profile

    @property
    def correction(self) -> Correction:
        """Factors to be used."""
        least = min(self._off)
        weights = [exp(SHARPNESS * (least - off)) for off in self._off]
        total = sum(weights)
        return Correction(
            sum(w * known.decode for w, known in zip(weights, self._known, strict=True)) / total,
            sum(w * known.prefill for w, known in zip(weights, self._known, strict=True)) / total,
        )

    def observe(self, decode_s: float, prefill_s: float, measured_s: float, now_s: float) -> None:
        """Take note of what the profile says of a step and of what it took, all above 0 in sum."""
        for place, known in enumerate(self._known):
            told_s = known.decode * decode_s + known.prefill * prefill_s
            off = min(abs(told_s / measured_s - 1.0), 1.0)
            self._off[place] = LATELY * self._off[place] + (1.0 - LATELY) * off
            if known is not PROFILED:
                self._known[place] = known.updated(decode_s, prefill_s, measured_s)
        self.detector.observe(measured_s / (decode_s + prefill_s), now_s)
