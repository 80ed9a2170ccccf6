"""The record of attempts: what is written when one begins, gives its first token, ends or is lost.

It writes into calls and knows nothing of slots, queues or policies.
"""

from __future__ import annotations

from dask_fmware.errors import DeadlineRejectedError, FMwareError
from dask_fmware.model.messages import AttemptEnded
from dask_fmware.model.replica import Replica
from dask_fmware.model.report import AttemptReport
from dask_fmware.runtime.actions import Fail
from dask_fmware.runtime.learning.corrections import Prediction
from dask_fmware.runtime.runs.records import CallRecord

__all__ = ["begin", "begun", "close", "end", "fail", "first_token", "lose", "reject", "start_over", "undelivered"]


def begin(
    call: CallRecord,
    replica: Replica,
    number: int,
    reason: str,
    expected: Prediction,
    ideal: tuple[float, float],
    now: float,
) -> None:
    """A call is given to a replica; `ideal` is first token and completion on an idle one of the fastest kind."""
    report = call.report
    report.attempts.append(
        AttemptReport(
            attempt=number,
            replica=replica.name,
            replica_id=replica.replica_id,
            accelerator=replica.accelerator,
            card=replica.card,
            reason=reason,
            started_at=now - call.run.report.submitted,
            predicted_ttft_s=expected.ttft_s,
            predicted_s=expected.latency_s,
            first_by_law_s=expected.first_by_law_s,
            by_law_s=expected.by_law_s,
            bound_s=expected.bound_s,
            band=expected.band,
            ideal_ttft_s=ideal[0],
            ideal_s=ideal[1],
        )
    )
    call.becomes("running", reason)
    call.tries += 1
    call.run.begun = True


def begun(call: CallRecord, number: int, now: float) -> None:
    """An attempt that was ahead has a slot: its time counts from here, unless its engine was quicker."""
    attempt = _numbered(call, number)
    if attempt is not None and attempt.first_token_at is None and attempt.ended_at is None:
        attempt.started_at = now - call.run.report.submitted


def first_token(call: CallRecord, number: int, now: float) -> None:
    """The first text of an attempt is there, if it is still the one that counts."""
    attempt = call.attempt
    if attempt is None or attempt.attempt != number or attempt.first_token_at is not None:
        return
    attempt.first_token_at = now - call.run.report.submitted


def end(call: CallRecord, event: AttemptEnded, now: float, ahead_since: float | None = None) -> AttemptReport | None:
    """Write the outcome of an attempt into its call; return it if it is the one that counts.

    One that was ahead of its slot since some time has had it for as long as its worker says, which may be longer than
    the end of another is known.
    """
    attempt = _numbered(call, event.attempt)
    if attempt is None:
        return None  # of a run of the same id, which was dropped
    attempt.prompt_tokens, attempt.output_tokens = event.prompt_tokens, event.output_tokens
    attempt.cached_tokens, attempt.error = event.cached_tokens, event.error
    attempt.is_repaired, attempt.format_tokens, attempt.cost = event.is_repaired, event.format_tokens, event.cost
    if attempt is not call.attempt:
        return None  # withdrawn or lost before; only its slot was still taken
    attempt.outcome, attempt.ended_at = event.outcome, now - call.run.report.submitted
    if ahead_since is not None and event.latency_s is not None:
        given_at, had_s = ahead_since - call.run.report.submitted, event.latency_s
        attempt.started_at = max(min(attempt.started_at, attempt.ended_at - had_s), given_at)
    if attempt.first_token_at is None and event.ttft_s is not None:  # only answers report it when it comes
        attempt.first_token_at = min(attempt.started_at + event.ttft_s + event.hidden_s, attempt.ended_at)
    match event.outcome:
        case "finished":
            call.becomes("finished")
            call.avoid = frozenset()
            call.run.idle_since = now
        case "failed":
            call.becomes("failed", event.error)
        case "skipped":
            call.becomes("skipped", "its branch was not taken")
        case "retry" | "aborted":
            call.becomes("planned")
            call.avoid |= {attempt.replica_id}
            if event.shut_s:  # no failure: its server had no room, and its replica is given no calls meanwhile
                call.tries = max(call.tries - 1, 0)
            else:
                call.unharmed += event.is_sound
    return attempt


def _numbered(call: CallRecord, number: int) -> AttemptReport | None:
    for attempt in reversed(call.report.attempts):
        if attempt.attempt == number:
            return attempt
    return None


def undelivered(call: CallRecord, number: int, now: float) -> None:
    """An assignment never left for its replica: it is no try of the call, and says nothing of the replica."""
    attempt = _numbered(call, number)
    if attempt is None or attempt.outcome not in ("running", "lost"):
        return  # told before, or of a run of the same id, which was dropped
    if attempt.outcome == "running":
        attempt.ended_at = now - call.run.report.submitted
        call.becomes("planned")
    attempt.outcome = "undelivered"
    call.tries = max(call.tries - 1, 0)


def close(call: CallRecord, now: float, error: str = "") -> None:
    """The attempt under way, if there is one, is of no use any more."""
    if (attempt := call.attempt) is not None:
        attempt.outcome, attempt.error, attempt.ended_at = "lost", error, now - call.run.report.submitted


def lose(call: CallRecord, now: float, error: str, *, began: bool) -> None:
    """The attempt under way is lost with its replica; its task comes back as runnable.

    One that was ahead had no part in it and is no try of its call, but only once: the end of the attempt before it may
    be what was lost too.
    """
    attempt = call.attempt
    close(call, now, error)
    call.becomes("planned")
    if attempt is not None and began:
        call.avoid |= {attempt.replica_id}
    if attempt is not None and not began and not call.spared:
        call.spared = True
        undelivered(call, attempt.attempt, now)


def fail(call: CallRecord, error: FMwareError) -> Fail:
    """End a call with an error."""
    call.becomes("failed", str(error))
    return Fail(call.call_id, error)


def start_over(call: CallRecord) -> None:
    """A user wants a failed call tried again: with all attempts, on any replica, counted from when it is runnable."""
    call.forget_tries()
    call.spared, call.avoid, call.parked = False, frozenset(), False
    call.becomes("planned", "")
    call.report.runnable_at = None


def reject(call: CallRecord, why: str) -> Fail:
    """End a call that would be late, as its run asks for."""
    failed = fail(
        call,
        DeadlineRejectedError(
            f"workflow '{call.run.plan.workflow}', node '{call.node.name}': {why} (on_miss='reject'); "
            "use on_miss='finish' to have it served late"
        ),
    )
    call.becomes("rejected")
    return failed
