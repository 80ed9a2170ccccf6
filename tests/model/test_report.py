from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.model.report import AttemptReport, CallReport, RunReport

text, seconds = st.text(max_size=8), st.floats(0, 1e6)
maybe = st.none() | seconds
attempts = st.builds(AttemptReport, st.integers(1, 9), *[text] * 5, seconds, maybe, maybe, maybe)
calls = st.builds(CallReport, *[text] * 3, st.booleans(), runnable_at=maybe, attempts=st.lists(attempts, max_size=3))
runs = st.builds(
    RunReport,
    *[text] * 3,
    st.integers(),
    seconds,
    st.sampled_from(["running", "finished", "failed", "cancelled", "refused"]),
    ttft_slo_s=maybe,
    e2e_slo_s=maybe,
    finish_by_s=maybe,
    first_token_at=maybe,
    finished_at=maybe,
    calls=st.lists(calls, max_size=3),
)


def attempt(**times: float) -> AttemptReport:
    return AttemptReport(1, "a", "tcp://a", "cpu", "a/0", "because", **times)  # type: ignore[arg-type]


def call(*attempts: AttemptReport, runnable_at: float | None = 1.0) -> CallReport:
    return CallReport("k", "answer", "small", True, runnable_at=runnable_at, attempts=list(attempts))


def run(state: str = "finished", **changes: object) -> RunReport:
    return RunReport("r", "rag", "default", 0, 100.0, state, **changes)  # type: ignore[arg-type]


@settings(max_examples=30)
@given(runs)
def test_a_report_crosses_the_wire(report: RunReport) -> None:
    assert RunReport.from_wire(report.to_wire()) == report
    assert report.to_wire() == asdict(report)


def test_the_wire_form_of_a_report_is_a_copy() -> None:
    report = run(calls=[call(attempt(started_at=2.0))])
    wire = report.to_wire()
    wire["calls"][0]["attempts"][0]["error"] = "changed"
    assert report.calls[0].attempts[0].error == ""
    assert type(wire["calls"][0]["attempts"][0]) is dict


def test_times_of_a_call_count_from_when_it_was_runnable() -> None:
    report = call(attempt(started_at=0.0), attempt(started_at=3.0, first_token_at=4.0, ended_at=8.0))
    assert (report.queued_s, report.ttft_s, report.latency_s) == (2.0, 3.0, 7.0)


@pytest.mark.parametrize(
    "report",
    [call(), call(attempt(started_at=3.0, first_token_at=4.0, ended_at=5.0), runnable_at=None)],
)
def test_a_call_that_did_not_start_has_no_times(report: CallReport) -> None:
    assert (report.queued_s, report.ttft_s, report.latency_s) == (None, None, None)


def test_a_call_that_runs_has_the_times_that_are_known() -> None:
    report = call(attempt(started_at=3.0))
    assert (report.queued_s, report.ttft_s, report.latency_s) == (2.0, None, None)


def test_times_of_an_attempt_before_a_call_was_runnable_again_are_not_its_own() -> None:
    report = call(attempt(started_at=3.0, first_token_at=4.0, ended_at=5.0), runnable_at=9.0)
    assert (report.queued_s, report.ttft_s, report.latency_s) == (None, None, None)


@settings(max_examples=50)
@given(calls)
def test_no_time_of_a_call_is_negative(report: CallReport) -> None:
    assert all(s is None or s >= 0 for s in (report.queued_s, report.ttft_s, report.latency_s))


def test_the_deadline_is_the_earliest_bound() -> None:
    assert run().deadline_s is None
    assert run(ttft_slo_s=2.0, e2e_slo_s=9.0).deadline_s == 2.0
    assert run(e2e_slo_s=9.0, finish_by_s=0.0).deadline_s == 0.0


@pytest.mark.parametrize(
    ("slo", "first", "finished", "met"),
    [
        ({"ttft_slo_s": 2.0}, 2.0, 9.0, True),
        ({"ttft_slo_s": 2.0}, 2.1, 9.0, False),
        ({"ttft_slo_s": 2.0}, None, 2.0, True),
        ({"ttft_slo_s": 2.0}, None, 2.1, False),
        ({"e2e_slo_s": 9.0}, 1.0, 9.0, True),
        ({"e2e_slo_s": 9.0}, 1.0, 9.1, False),
        ({"finish_by_s": 9.0}, 1.0, 9.0, True),
        ({"finish_by_s": 9.0}, 1.0, 9.1, False),
        ({"ttft_slo_s": 2.0, "e2e_slo_s": 9.0}, 1.0, 9.1, False),
    ],
)
def test_an_slo_is_met_if_every_bound_held(slo, first, finished, met) -> None:
    assert run(**slo, first_token_at=first, finished_at=finished).met is met


@pytest.mark.parametrize("state", ["running", "cancelled"])
def test_nothing_is_said_of_a_run_that_was_not_served_to_its_end_by_choice(state: str) -> None:
    assert run(state, e2e_slo_s=1.0, finished_at=9.0).met is None


def test_nothing_is_said_of_a_run_without_an_slo() -> None:
    assert run(finished_at=9.0).met is None


@pytest.mark.parametrize("state", ["failed", "refused"])
def test_a_run_that_failed_or_was_refused_missed_its_slo(state: str) -> None:
    assert run(state, e2e_slo_s=10.0, finished_at=1.0).met is False


def test_an_attempt_counts_if_it_is_the_last() -> None:
    first, second = attempt(started_at=1.0), attempt(started_at=2.0)
    assert call(first, second).last is second
    assert call().last is None


def test_a_packed_report_comes_back_whole() -> None:
    attempt = AttemptReport(1, "w", "tcp://w", "L4", "L4-0", "it is idle", 0.5, error="lost", outcome="lost")
    call = CallReport("k", "answer", "small", True, "finished", 0.25, "", [attempt])
    report = RunReport("r", "rag", "default", 0, 7.0, "finished", ttft_slo_s=2.0, finished_at=1.0, calls=[call])
    packed = report.packed()
    assert RunReport.unpacked(packed) == report
    report.calls.clear()
    assert RunReport.unpacked(packed).calls == [call]
