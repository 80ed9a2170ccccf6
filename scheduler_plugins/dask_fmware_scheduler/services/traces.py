"""OpenTelemetry spans of runs: workflow > node > attempt, through the API package (extra `otel`).

A run's spans are made when it has ended, from its report, with the times that the scheduler saw. A run that failed and
was retried has spans once more, of what came since: its first ones have no ``fmware.run.retries``. Names follow the
GenAI semantic conventions, version 1.41 (all of them "in development"): ``invoke_workflow NAME`` around a span for each
model node, around one ``chat MODEL`` for each attempt. No prompt and no answer is in any span: the scheduler has none.
Without a tracer provider in the scheduler's process nothing is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.config

from dask_fmware.model.report import AttemptReport, CallReport, RunReport
from dask_fmware.observe.blame import blame
from dask_fmware.runtime import Action, Event, RunDropped, RunEnded, RunRetried, RunSubmitted

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Traces", "record"]

SCOPE = "dask_fmware"
FAULTS = ("failed", "rejected", "refused")
Attributes = dict[str, str | int | float | bool]


class Traces:
    """Watches the machine and hands over the spans of runs that ended; a `Service`."""

    watches = frozenset({RunSubmitted, RunEnded, RunRetried, RunDropped})

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._live: set[str] = set()

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Watch, unless traces are switched off or OpenTelemetry is not installed."""
        if not dask.config.get("fmware.traces.enabled", True):
            return
        try:
            import opentelemetry.trace  # noqa: F401
        except ImportError:
            return
        self._router.machine.observers.append(self)

    def close(self) -> None:
        """Watch no more."""
        self._router.machine.observers.remove(self)

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Hand over a run's spans when it has ended, once for its submission and once for each retry."""
        match event:
            case RunSubmitted() if event.plan.part_of is None:
                self._live.add(event.plan.run_id)
                report = self._router.machine.report(event.plan.run_id)
                if report is not None and report.state == "refused":
                    self._ended(event.plan.run_id)
            case RunRetried():
                report = self._router.machine.report(event.run_id)
                if report is not None and report.run_id == event.run_id and report.state == "running":
                    self._live.add(event.run_id)
            case RunEnded() | RunDropped():
                self._ended(event.run_id)
            case _:
                pass

    def _ended(self, run_id: str) -> None:
        if run_id not in self._live:
            return
        self._live.discard(run_id)
        report = self._router.machine.report(run_id)
        if report is not None and is_traced():
            submitted = report.submitted + self._router.clock.set_by_s  # spans of other processes go by the wall clock
            record(replace(report, submitted=submitted), self._engine)

    def _engine(self, replica_id: str) -> str:
        state = self._router.machine.fleet.get(replica_id)
        return state.replica.engine if state is not None else ""


def is_traced() -> bool:
    """Whether spans go anywhere: somebody has set a tracer provider in this process."""
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def record(report: RunReport, engine: Callable[[str], str]) -> None:
    """Make the spans of a run that ended.

    Parameters
    ----------
    report
        Of the run.
    engine
        Name of the engine of a replica, by its id; empty if the replica is gone.
    """
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, set_span_in_context

    since = report.failures[-1].retried_at if report.failures else 0.0
    tracer = trace.get_tracer(SCOPE)
    root = tracer.start_span(
        f"invoke_workflow {report.workflow}",
        kind=SpanKind.INTERNAL,
        start_time=_ns(report, since),
        attributes=_run_attributes(report),
    )
    if root.is_recording():
        context = set_span_in_context(root)
        for call in report.calls:
            attempts = [attempt for attempt in call.attempts if attempt.began and attempt.started_at >= since]
            if call.runnable_at is not None and attempts:
                _call(report, call, attempts, engine, tracer, context)
        _close(root, report, _end_of(report), report.reason if report.state in FAULTS else "")


def _call(
    report: RunReport,
    call: CallReport,
    attempts: Sequence[AttemptReport],
    engine: Callable[[str], str],
    tracer: Any,
    context: Any,
) -> None:
    from opentelemetry.trace import SpanKind, set_span_in_context

    last = attempts[-1]
    attributes: Attributes = {
        "fmware.workflow.node": call.node,
        "gen_ai.request.model": call.model,
        "fmware.call.state": call.state,
        "fmware.call.queued_s": call.queued_s or 0.0,
    }
    start = min(call.runnable_at or 0.0, attempts[0].started_at)
    span = tracer.start_span(call.node, context, SpanKind.INTERNAL, attributes, start_time=_ns(report, start))
    inside = set_span_in_context(span)
    for attempt in attempts:
        made = tracer.start_span(
            f"chat {call.model}",
            inside,
            SpanKind.CLIENT,
            _attempt_attributes(call, attempt, engine(attempt.replica_id)),
            start_time=_ns(report, attempt.started_at),
        )
        if attempt.first_token_at is not None:
            made.add_event("first token", timestamp=_ns(report, attempt.first_token_at))
        failed = attempt.error or attempt.outcome if attempt.outcome in ("failed", "retry", "lost") else ""
        _close(made, report, _ended_at(report, attempt), failed)
    _close(span, report, _ended_at(report, last), call.reason or last.error if call.state in FAULTS else "")


def _run_attributes(report: RunReport) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": report.workflow,
        "fmware.run.id": report.run_id,
        "fmware.run.state": report.state,
        "fmware.run.priority": report.priority,
        "fmware.tenant": report.tenant,
    }
    for name, bound in (
        ("ttft_s", report.ttft_slo_s),
        ("e2e_s", report.e2e_slo_s),
        ("finish_by_s", report.finish_by_s),
    ):
        if bound is not None:
            attributes[f"fmware.slo.{name}"] = bound
    if report.failures:
        attributes["fmware.run.retries"] = len(report.failures)
    if report.met is not None:
        attributes["fmware.slo.met"] = report.met
    if report.first_token_at is not None:
        attributes["fmware.time_to_first_token_s"] = report.first_token_at
    whom = blame(report)
    if whom is not None and report.met is False:
        attributes.update(
            {"fmware.miss.cause": whom.cause, "fmware.miss.node": whom.node, "fmware.miss.card": whom.card}
        )
    return attributes


def _attempt_attributes(call: CallReport, attempt: AttemptReport, engine: str) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": engine or "unknown",
        "gen_ai.request.model": call.model,
        "gen_ai.usage.input_tokens": attempt.prompt_tokens,
        "gen_ai.usage.output_tokens": attempt.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": attempt.cached_tokens,
        "server.address": attempt.replica_id,
        "fmware.attempt": attempt.attempt,
        "fmware.attempt.outcome": attempt.outcome,
        "fmware.replica": attempt.replica,
        "fmware.accelerator": attempt.accelerator,
        "fmware.card": attempt.card,
        "fmware.router.reason": attempt.reason,
    }
    if attempt.predicted_s is not None:
        attributes["fmware.predicted_s"] = attempt.predicted_s
    return attributes


def _close(span: Any, report: RunReport, at: float, error: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    if error:
        span.set_attribute("error.type", error.partition(":")[0])
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_time=_ns(report, at))


def _ended_at(report: RunReport, attempt: AttemptReport) -> float:
    return attempt.ended_at if attempt.ended_at is not None else _end_of(report)


def _end_of(report: RunReport) -> float:
    known = [attempt.ended_at or attempt.started_at for call in report.calls for attempt in call.attempts]
    return report.finished_at if report.finished_at is not None else max(known, default=0.0)


def _ns(report: RunReport, at: float) -> int:
    return int(1e9 * (report.submitted + at))
