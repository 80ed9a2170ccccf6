"""What a worker tells of its engine's steps: what the profile says they take, beside what they took.

The sums of some steps are enough for `correction.Correction`, cost a few bytes and hold nothing of a prompt.
A report ends where no prompt is half done, because which part of it a step has prefilled is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from dask_fmware.profile.law import StepLaw, chunk_pairs
from dask_fmware.profile.meter import MeteredStep

__all__ = ["StepReport", "StepReporter"]

WINDOW = 8  # steps in a report, unless a prompt is done before


@dataclass(frozen=True, slots=True)
class StepReport:
    """Sums over some steps of one engine."""

    decode_s: float  # by the law that is not corrected, without prefill
    prefill_s: float  # what prefill adds to them by that law
    measured_s: float  # what they took
    steps: float

    @property
    def ratio(self) -> float:
        """Measured over profiled time, for a `correction.DriftDetector`."""
        return self.measured_s / (self.decode_s + self.prefill_s)


class StepReporter:
    """Sums up metered steps into reports.

    Parameters
    ----------
    law
        Of the profile, not corrected.
    step_tokens
        Most tokens of one step; None if prompts are never cut.
    least_s
        Time that a report covers at least.
    """

    def __init__(self, law: StepLaw, step_tokens: int | None = None, least_s: float = 0.0) -> None:
        self._law, self._step_tokens, self._least_s = law, step_tokens, least_s
        self._begin()

    def _begin(self) -> None:
        self._decode_s = self._prefill_s = self._measured_s = 0.0
        self._steps = 0.0

    def add(self, step: MeteredStep) -> StepReport | None:
        """Take a step; return a report when one is due."""
        steps, prefill_s = self._parts(step)
        context = step.context_tokens + step.batch * (step.steps - 1) / 2
        self._decode_s += steps * self._law.step_s(0, step.batch, context)
        self._prefill_s += prefill_s
        self._measured_s += step.took_s
        self._steps += step.steps
        whole = step.prefilling == len(step.firsts)
        enough = (self._steps >= WINDOW or step.firsts) and self._measured_s >= self._least_s
        if not whole or not enough or self._decode_s + self._prefill_s <= 0:
            return None
        report = StepReport(self._decode_s, self._prefill_s, self._measured_s, self._steps)
        self._begin()
        return report

    def _parts(self, step: MeteredStep) -> tuple[float, float]:
        """Engine steps, and what the law says of the prompts that are done in them, all their parts together."""
        if not step.firsts:
            return step.steps, 0.0
        tokens = sum(computed for computed, _cached in step.firsts)
        pairs = sum(chunk_pairs(computed, cached) for computed, cached in step.firsts)
        parts = 1 if self._step_tokens is None else max(1, ceil(tokens / max(self._step_tokens - step.batch, 1)))
        prompts = len(step.firsts) if parts == 1 else 1
        prefill_s = parts * self._law.prefill_s(tokens / parts, prompts, pairs / parts)
        return step.steps if step.batch else max(step.steps, parts), prefill_s  # nobody's tokens count idle steps
