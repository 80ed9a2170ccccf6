"""Which bounds of an SLO are met, and what is left of the others."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.model.bounds import bounds, due, first_token_s, left_s
from dask_fmware.model.report import AttemptReport, CallReport, RunReport


def answer(first: float | None, state: str = "running", outcome: str = "running") -> CallReport:
    tries = [AttemptReport(1, "r", "tcp://r", "A", "A-0", "", 0.0, first_token_at=first, outcome=outcome)]  # type: ignore[arg-type]
    return CallReport("c", "answer", "m", True, state=state, runnable_at=0.0, attempts=tries)  # type: ignore[arg-type]


def run(*calls: CallReport, **fields: Any) -> RunReport:
    return RunReport("r", "rag", "default", 0, 100.0, calls=list(calls), **fields)


def test_a_first_token_in_time_leaves_the_bound_on_the_end() -> None:
    report = run(answer(1.0), ttft_slo_s=2.0, e2e_slo_s=20.0)
    assert left_s(report, 5.0) == 15.0
    assert left_s(report, 25.0) == -5.0
    told = due(report)
    assert told is not None
    assert (told.what, told.promised_s) == ("done", 20.0)


def test_a_run_that_has_kept_all_of_its_bounds_has_nothing_left_to_keep() -> None:
    report = run(answer(1.0), ttft_slo_s=2.0)
    assert (left_s(report, 5.0), due(report)) == (None, None)
    assert left_s(run(answer(1.0)), 5.0) is None


def test_a_first_token_that_came_late_stays_as_late_as_it_was() -> None:
    assert left_s(run(answer(3.0), ttft_slo_s=2.0, e2e_slo_s=20.0), 10.0) == -1.0
    assert left_s(run(answer(3.0), ttft_slo_s=2.0, e2e_slo_s=20.0), 25.0) == -5.0


@pytest.mark.parametrize(
    ("calls", "first"),
    [
        ([answer(None)], None),
        ([answer(1.0), answer(None)], None),
        ([answer(1.0), answer(1.5)], 1.5),
        ([answer(1.0), answer(None, state="skipped")], 1.0),
        ([answer(1.0, outcome="lost", state="held")], None),
        ([], None),
    ],
)
def test_an_answer_has_begun_when_all_of_its_calls_that_are_taken_have_a_token(
    calls: list[CallReport], first: float | None
) -> None:
    assert first_token_s(run(*calls)) == first


def test_a_run_that_ends_in_plain_code_has_its_first_token_at_its_end_and_a_failed_one_none() -> None:
    done = run(state="finished", finished_at=1.5, ttft_slo_s=2.0, finish_by_s=1.0)
    assert [(b.what, b.at_s, b.is_met) for b in bounds(done)] == [("first token", 1.5, True), ("done", 1.5, False)]
    failed = run(state="failed", finished_at=1.5, ttft_slo_s=2.0, e2e_slo_s=3.0)
    assert [b.is_met for b in bounds(failed)] == [False, False]
