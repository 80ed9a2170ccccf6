"""Spans of runs, as an exporter gets them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dask_fmware.model.report import Failure
from dask_fmware_scheduler.services.traces import record
from tests.observe.test_blame import attempt, call, run


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def by_name(exported: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exported.get_finished_spans()}


def test_a_run_is_workflow_node_and_attempts_with_the_names_of_the_conventions(exported: InMemorySpanExporter) -> None:
    lost = attempt(0.2, 1.0, card="slow-0", outcome="lost", error="its worker is gone")
    second = attempt(1.5, 3.0, number=2, first_token_at=2.0, ideal_ttft_s=0.2, prompt_tokens=40, output_tokens=9)
    record(run(call("answer", 0.1, lost, second, answers=True)), lambda _: "llama.cpp")
    spans = exported.get_finished_spans()
    assert [span.name for span in spans] == ["chat large", "chat large", "answer", "invoke_workflow rag"]
    first, tried, node, root = spans
    assert root.parent is None
    assert node.parent.span_id == root.context.span_id
    assert {first.parent.span_id, tried.parent.span_id} == {node.context.span_id}
    assert (root.start_time, root.end_time) == (100_000_000_000, 103_000_000_000)
    assert (tried.start_time, tried.end_time) == (101_500_000_000, 103_000_000_000)
    assert [(event.name, event.timestamp) for event in tried.events] == [("first token", 102_000_000_000)]
    assert root.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert root.attributes["gen_ai.workflow.name"] == "rag"
    assert root.attributes["fmware.slo.met"] is False
    assert root.attributes["fmware.miss.card"] == "slow-0"
    assert tried.attributes["gen_ai.provider.name"] == "llama.cpp"
    assert tried.attributes["gen_ai.usage.output_tokens"] == 9
    assert first.status.status_code is trace.StatusCode.ERROR
    assert first.attributes["error.type"] == "its worker is gone"
    assert tried.status.is_ok
    assert node.status.is_ok


def test_an_attempt_that_never_began_has_no_span(exported: InMemorySpanExporter) -> None:
    undelivered = attempt(0.2, 1.0, outcome="undelivered")
    second = attempt(1.5, 3.0, number=2, first_token_at=2.0)
    record(run(call("never", 0.1, undelivered), call("answer", 0.1, undelivered, second, answers=True)), lambda _: "")
    assert [span.name for span in exported.get_finished_spans()] == ["chat large", "answer", "invoke_workflow rag"]


def test_a_run_that_failed_or_never_began_is_an_error(exported: InMemorySpanExporter) -> None:
    record(run(state="refused", reason="DeadlineRejectedError: too late"), lambda _: "")
    root = by_name(exported)["invoke_workflow rag"]
    assert root.status.status_code is trace.StatusCode.ERROR
    assert root.attributes["error.type"] == "DeadlineRejectedError"


def test_a_run_that_was_retried_has_spans_of_what_came_since(exported: InMemorySpanExporter) -> None:
    first = attempt(0.2, 1.0, outcome="failed", error="it broke")
    second = attempt(5.5, 6.0, number=2, first_token_at=5.6)
    retried = run(call("kept", 0.0, attempt(0.0, 0.1)), call("answer", 5.2, first, second, answers=True))
    retried.failures = (Failure("it broke", 1.0, 5.0),)
    record(retried, lambda _: "")
    spans = exported.get_finished_spans()
    assert [span.name for span in spans] == ["chat large", "answer", "invoke_workflow rag"]
    assert (spans[-1].start_time, spans[-1].attributes["fmware.run.retries"]) == (105_000_000_000, 1)
    assert spans[-1].attributes["fmware.time_to_first_token_s"] == 5.6
    assert spans[1].start_time == 105_200_000_000


def test_without_a_provider_nothing_is_made() -> None:
    record(run(call("answer", 0.1, attempt(0.2, 1.0, first_token_at=0.3), answers=True)), lambda _: "")
