"""What is known of a run, during and after it: the run, its calls and the attempts of each call.

Times are seconds since the run was submitted, on the scheduler's clock, unless their name says else.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Self, TypeAlias

__all__ = ["AttemptReport", "CallReport", "CallState", "Failure", "PackedReport", "RunReport", "RunState"]

CallState: TypeAlias = Literal[
    "planned", "held", "queued", "running", "finished", "failed", "rejected", "cancelled", "skipped"
]
RunState: TypeAlias = Literal["running", "finished", "failed", "rejected", "cancelled", "refused"]
Values: TypeAlias = tuple[Any, ...]
PackedReport: TypeAlias = bytes


@dataclass(slots=True)
class AttemptReport:
    """One try of a call on one replica."""

    attempt: int  # 1, 2, ...
    replica: str  # name of its worker
    replica_id: str  # address of its worker
    accelerator: str
    card: str
    reason: str  # why the policy chose this replica
    started_at: float
    predicted_ttft_s: float | None = None  # expected seconds from start to the first token
    predicted_s: float | None = None  # expected seconds from start to end
    first_by_law_s: float | None = None  # the same two before what finished calls taught
    by_law_s: float | None = None
    bound_s: float | None = None  # seconds that nine of ten such calls are expected to stay within
    band: int = 0  # of the replica's load at its start, see `profile.quantiles.load_band`
    ideal_ttft_s: float | None = None  # expected seconds to the first token on an idle replica of the fastest kind
    ideal_s: float | None = None  # expected seconds from start to end there
    first_token_at: float | None = None
    ended_at: float | None = None
    outcome: Literal["running", "finished", "failed", "retry", "aborted", "lost", "skipped", "undelivered"] = "running"
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    error: str = ""
    is_repaired: bool = False  # the answer had to be mended to have the format asked for
    format_tokens: int | None = None  # output tokens that the format took; None: no format was asked for
    cost: float | None = None  # in the currency of the engine's prices; None: it has none

    @property
    def began(self) -> bool:
        """Whether its replica took it; one that was not delivered is tried elsewhere and cost nobody anything."""
        return self.outcome != "undelivered"


@dataclass(slots=True)
class CallReport:
    """One model node of a run."""

    call_id: str
    node: str
    model: str
    answers: bool
    state: CallState = "planned"
    runnable_at: float | None = None
    reason: str = ""  # why it waits, was skipped or rejected, or failed
    lacked: str = ""  # what was missing when it last became runnable, if that was a replica
    attempts: list[AttemptReport] = field(default_factory=list)
    latest_start_at: float | None = None  # of a call that has not ended, for nine of ten such runs to be in time
    live_slack_s: float | None = None  # until then, when this report was made
    after: tuple[str, ...] = ()  # calls, maps and loops whose values it takes, directly or through plain code
    before_retry: bool = False  # of a map or loop that ran again when its run was retried

    @property
    def last(self) -> AttemptReport | None:
        """The attempt that counts."""
        return self.attempts[-1] if self.attempts else None

    @property
    def cost(self) -> float | None:
        """Price of all attempts; None if none has a price."""
        costs = [attempt.cost for attempt in self.attempts if attempt.cost is not None]
        return sum(costs) if costs else None

    @property
    def format_tokens(self) -> int | None:
        """Output tokens that the format took, over all attempts; None if no format was asked for."""
        spent = [attempt.format_tokens for attempt in self.attempts if attempt.format_tokens is not None]
        return sum(spent) if spent else None

    def _since_runnable(self, at: float | None) -> float | None:
        """Seconds from runnable; None for what was before it, by a call that runs again as its result was lost."""
        if at is None or self.runnable_at is None or at < self.runnable_at:
            return None
        return at - self.runnable_at

    @property
    def queued_s(self) -> float | None:
        """Seconds from runnable to the start of the last attempt."""
        return self._since_runnable(self.last.started_at if self.last else None)

    @property
    def ttft_s(self) -> float | None:
        """Seconds from runnable to the first token of the last attempt."""
        return self._since_runnable(self.last.first_token_at if self.last else None)

    @property
    def latency_s(self) -> float | None:
        """Seconds from runnable to the end of the last attempt."""
        return self._since_runnable(self.last.ended_at if self.last else None)


class Failure(NamedTuple):
    """An end of a run that did not last, as its user had it tried again."""

    reason: str
    failed_at: float
    retried_at: float


@dataclass(slots=True)
class RunReport:
    """One run of a workflow."""

    run_id: str
    workflow: str
    tenant: str
    priority: int
    submitted: float  # seconds of the scheduler's clock
    state: RunState = "running"
    reason: str = ""  # why it failed, was rejected (`on_miss`), refused when it came, or cancelled
    ttft_slo_s: float | None = None
    e2e_slo_s: float | None = None
    finish_by_s: float | None = None
    first_token_at: float | None = None  # of its answer, once it has ended; its completion where it ends in plain code
    finished_at: float | None = None
    failures: tuple[Failure, ...] = ()  # before it was retried, each time
    calls: list[CallReport] = field(default_factory=list)

    @property
    def cost(self) -> float | None:
        """Price of all calls; None if none has a price."""
        costs = [call.cost for call in self.calls if call.cost is not None]
        return sum(costs) if costs else None

    @property
    def deadline_s(self) -> float | None:
        """The earliest bound of its SLO."""
        bounds = [b for b in (self.ttft_slo_s, self.e2e_slo_s, self.finish_by_s) if b is not None]
        return min(bounds) if bounds else None

    @property
    def met(self) -> bool | None:
        """Whether every bound of the SLO held; None while it runs, without an SLO, or if it was cancelled."""
        if self.deadline_s is None or self.state in ("running", "cancelled"):
            return None
        if self.state != "finished" or self.finished_at is None:
            return False
        first = self.first_token_at if self.first_token_at is not None else self.finished_at
        return (
            (self.ttft_slo_s is None or first <= self.ttft_slo_s)
            and (self.e2e_slo_s is None or self.finished_at <= self.e2e_slo_s)
            and (self.finish_by_s is None or self.finished_at <= self.finish_by_s)
        )

    def to_wire(self) -> dict[str, Any]:
        """Return the report as plain values."""
        calls = [
            {**dict(zip(_CALL, _of_call(call), strict=True)), "attempts": [_wire_of(one) for one in call.attempts]}
            for call in self.calls
        ]
        failures = tuple([tuple(failure) for failure in self.failures])
        return {**dict(zip(_RUN, _of_run(self), strict=True)), "failures": failures, "calls": calls}

    def packed(self) -> PackedReport:
        """Return the report as a few hundred bytes, a third of what its values take as objects.

        Made in a few microseconds for each call, a tenth of what plain values take on their way through a message.
        """
        calls = [(_of_call(call), [_of_attempt(attempt) for attempt in call.attempts]) for call in self.calls]
        return pickle.dumps((_of_run(self), calls), protocol=5)

    @classmethod
    def unpacked(cls, packed: PackedReport) -> Self:
        """Read what `packed` made, by this version."""
        run, calls = pickle.loads(packed)
        return cls(
            **dict(zip(_RUN, run, strict=True)),
            calls=[
                CallReport(**dict(zip(_CALL, call, strict=True)), attempts=[AttemptReport(*values) for values in tries])
                for call, tries in calls
            ],
        )

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """Read what `to_wire` made."""
        calls = [
            CallReport(**{**call, "attempts": [AttemptReport(**attempt) for attempt in call["attempts"]]})
            for call in wire["calls"]
        ]
        failures = tuple([Failure(*failure) for failure in wire["failures"]])
        return cls(**{**wire, "failures": failures, "calls": calls})


def _wire_of(attempt: AttemptReport) -> dict[str, Any]:
    return dict(zip(_ATTEMPT, _of_attempt(attempt), strict=True))


_ATTEMPT = tuple(f.name for f in fields(AttemptReport))
_CALL = tuple(f.name for f in fields(CallReport) if f.name != "attempts")
_RUN = tuple(f.name for f in fields(RunReport) if f.name != "calls")
_of_attempt: Callable[[AttemptReport], Values] = attrgetter(*_ATTEMPT)
_of_call: Callable[[CallReport], Values] = attrgetter(*_CALL)
_of_run: Callable[[RunReport], Values] = attrgetter(*_RUN)
