"""Measured steps: one as a value, many as columns.

It owns what a measurement of a step is; not how it was taken, nor which law explains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import StepLaw

__all__ = ["PointTable", "StepPoint"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepPoint:
    """One measured step, or the median of like ones."""

    step_s: float  # duration
    prefill_tokens: float = 0.0  # prompt tokens in the step, over all prompts
    prefilled: int = 0  # prompts that they belong to
    batch: float = 0.0  # sequences that decoded in the step
    context_tokens: float = 0.0  # KV-cache tokens of those sequences, summed
    pairs: float | None = None  # attention pairs of the prefill; None: equal prompts from nothing


@dataclass(frozen=True, slots=True)
class PointTable:
    """Points as columns, for least squares."""

    step_s: Floats
    tokens: Floats
    prompts: Floats
    batch: Floats
    context: Floats
    pairs: Floats

    @classmethod
    def of(cls, points: Sequence[StepPoint]) -> PointTable:
        """Return the points as columns; refuses a duration that no step can have."""
        for point in points:
            if not (point.step_s > 0 and np.isfinite(point.step_s)):
                raise SpecError(f"a step must have a positive, finite duration, got {point.step_s} s in {point}")
        prompts = np.array([max(p.prefilled, 1) for p in points], dtype=np.float64)
        tokens = np.array([p.prefill_tokens for p in points], dtype=np.float64)
        pairs = [
            t * t / (2 * n) if p.pairs is None else p.pairs for p, t, n in zip(points, tokens, prompts, strict=True)
        ]
        return cls(
            np.array([p.step_s for p in points], dtype=np.float64),
            tokens,
            prompts,
            np.array([p.batch for p in points], dtype=np.float64),
            np.array([p.context_tokens for p in points], dtype=np.float64),
            np.array(pairs, dtype=np.float64),
        )

    @property
    def size(self) -> int:
        """Number of points."""
        return len(self.step_s)

    def only(self, rows: NDArray[np.bool_]) -> PointTable:
        """Return the points that a mask selects."""
        return PointTable(
            self.step_s[rows],
            self.tokens[rows],
            self.prompts[rows],
            self.batch[rows],
            self.context[rows],
            self.pairs[rows],
        )

    def errors(self, law: StepLaw) -> Floats:
        """Relative errors of a law, 0.02 is two percent."""
        predicted = law.steps_s(self.tokens, self.batch, self.context, self.prompts, self.pairs)
        return np.asarray(np.abs(predicted - self.step_s) / self.step_s)
