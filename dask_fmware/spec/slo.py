"""What a user asks of one run: service level objective, tenant, priority. It knows no clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dask_fmware.errors import SpecError
from dask_fmware.spec.record import Option, Printable, Record, shorten

__all__ = ["SLO", "RunOptions", "checked_slo"]

LONGEST_S = 10 * 365 * 86_400  # ten years; without a bound, sums of what runs have left may be infinite


class SLO(Option):
    """End-to-end objective of a workflow; a run that misses any bound that is set counts as missed.

    Parameters
    ----------
    ttft_s
        Seconds from submission to the first token of the answer, at most ten years. For a workflow that ends in plain
        code it is the time to its completion.
    e2e_s
        Seconds from submission to the complete answer, at most ten years.
    finish_by
        A point in time (with a time zone) at which the answer must be complete.
    on_miss
        What happens to a run that can no longer make it: ``"finish"`` serves it when there is room,
        ``"reject"`` ends it with `DeadlineRejectedError`. The policy `slack` finds such runs; others end those of
        which a call begins after the deadline.
        One that has finished is not rejected any more: where its result is lost, it is made again, however late.

    Raises
    ------
    SpecError
        With the bound, its value and what it may be.
    """

    ttft_s: float | None = Field(default=None, gt=0, le=LONGEST_S)
    e2e_s: float | None = Field(default=None, gt=0, le=LONGEST_S)
    finish_by: datetime | None = None
    on_miss: Literal["finish", "reject"] = "finish"

    @field_validator("finish_by", mode="before")
    @classmethod
    def _is_a_moment(cls, given: Any) -> Any:
        # pydantic would take a number for seconds since 1970, also one that is written as text.
        try:
            float(given)
        except (TypeError, ValueError):
            return given
        except OverflowError:  # a number all the same
            pass
        raise ValueError(
            f"finish_by is a moment with a time zone, not {shorten(repr(given))}; for seconds from submission use e2e_s"
        )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.ttft_s is None and self.e2e_s is None and self.finish_by is None:
            raise ValueError("an SLO needs at least one of ttft_s, e2e_s and finish_by")
        if self.ttft_s is not None and self.e2e_s is not None and self.ttft_s > self.e2e_s:
            raise ValueError(f"ttft_s={self.ttft_s} is later than e2e_s={self.e2e_s}: the first token comes first")
        if self.finish_by is not None and self.finish_by.tzinfo is None:
            raise ValueError("finish_by needs a time zone, e.g. datetime(..., tzinfo=timezone.utc)")
        return self


def checked_slo(given: object, error: type[SpecError] = SpecError) -> SLO | None:
    """Return an objective, if one was given; anything else raises `error`."""
    if given is not None and not isinstance(given, SLO):
        raise error(f"slo={shorten(repr(given))}: give an fm.SLO, e.g. fm.SLO(ttft_s=2.0)")
    return given


class RunOptions(Record):
    """Who a run belongs to and how urgent it is, beside its SLO."""

    slo: SLO | None = None
    tenant: Printable = Field(default="default", min_length=1, max_length=200)
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="higher first, of what can be in time, and of what cannot behind it"
    )
