"""Factors that bring a step-time law up to date while a replica works, by recursive least squares.

They take profiled and measured seconds; the time is passed in, and nothing here knows whose replica it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dask_fmware.errors import SpecError
from dask_fmware.profile.drift import DriftDetector
from dask_fmware.profile.law import StepLaw

__all__ = ["Correction", "ReplicaSpeed"]

LEAST, MOST = 0.05, 50.0  # bounds of a factor: beyond them the profile is of something else
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
