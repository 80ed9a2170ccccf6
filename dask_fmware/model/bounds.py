"""The bounds that a run was promised, which of them it has kept, and what is left of the others; it knows no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dask_fmware.model.report import RunReport

__all__ = ["Bound", "bounds", "due", "first_token_s", "left_s"]


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound of an SLO; times are seconds since the run was submitted."""

    what: Literal["first token", "done"]  # what was promised
    promised_s: float
    at_s: float | None  # when it was so; None: not yet, or never

    @property
    def is_met(self) -> bool:
        """Whether it was so in time."""
        return self.at_s is not None and self.at_s <= self.promised_s


def first_token_s(report: RunReport) -> float | None:
    """When the answer of a run began, also while it goes on; None: not yet.

    It has begun when all of its answering calls have a token, not counting branches that were not taken.
    """
    if report.state != "running":
        return report.first_token_at
    latest = 0.0
    answers = [call for call in report.calls if call.answers and call.state != "skipped"]
    for call in answers:
        last = call.last
        if last is None or last.first_token_at is None or last.outcome not in ("running", "finished"):
            return None
        latest = max(latest, last.first_token_at)
    return latest if answers else None


def bounds(report: RunReport) -> list[Bound]:
    """Return what a run was promised; one that ends in plain code has its first token at its end."""
    done = report.finished_at if report.state == "finished" else None
    first = first_token_s(report)
    promised = (
        Bound("first token", report.ttft_slo_s, done if first is None else first)
        if report.ttft_slo_s is not None
        else None,
        Bound("done", report.e2e_slo_s, done) if report.e2e_slo_s is not None else None,
        Bound("done", report.finish_by_s, done) if report.finish_by_s is not None else None,
    )
    return [bound for bound in promised if bound is not None]


def due(report: RunReport) -> Bound | None:
    """Return the least bound that has not been met; None: there is none any more."""
    return min((bound for bound in bounds(report) if not bound.is_met), key=lambda b: b.promised_s, default=None)


def left_s(report: RunReport, now_s: float) -> float | None:
    """Return what is left until a run is late, below 0 by how much it is late; None: nothing is left to be kept.

    `now_s` is the time since it was submitted.

    Examples
    --------
    >>> report = RunReport("r", "rag", "default", 0, 0.0, ttft_slo_s=2.0, e2e_slo_s=20.0)
    >>> left_s(report, now_s=0.5)
    1.5
    """
    return min(
        (
            bound.promised_s - (now_s if bound.at_s is None else bound.at_s)
            for bound in bounds(report)
            if not bound.is_met
        ),
        default=None,
    )
