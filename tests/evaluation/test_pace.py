"""Rows with a moment to finish by: background while the line holds, urgent when it does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.evaluation.pace import Pace


def test_nothing_is_urgent_as_long_as_the_background_is_ahead() -> None:
    pace = Pace(0.0, 1000.0, 900)  # a row a second, and a tenth of the time in reserve
    assert pace.lag(done=100, promised=0, now=90.0, horizon_s=10.0) == 0
    assert pace.lag(done=90, promised=0, now=90.0, horizon_s=10.0) == 10
    assert pace.lag(done=90, promised=10, now=90.0, horizon_s=10.0) == 0


def test_deadlines_lie_on_the_line_and_never_behind_the_end() -> None:
    pace = Pace(0.0, 1000.0, 900)
    assert pace.deadline_s(position=500, now=100.0, horizon_s=1.0) == 400.0
    assert pace.deadline_s(position=100, now=100.0, horizon_s=5.0) == 10.0  # due now: as quick as can be hoped for
    assert pace.deadline_s(position=900, now=999.9, horizon_s=5.0) == 1.0


@given(st.integers(1, 10_000), st.floats(1, 1e6), st.floats(0, 2), st.floats(0.01, 100))
def test_all_rows_are_due_before_the_end_and_none_beyond(rows: int, span_s: float, at: float, horizon_s: float) -> None:
    pace = Pace(50.0, 50.0 + span_s, rows)
    now = 50.0 + at * span_s
    assert 0 <= pace.due(now) <= rows
    assert pace.due(50.0 + 0.95 * span_s) == rows
    assert pace.lag(rows, 0, now, horizon_s) == 0
    assert pace.deadline_s(rows, now, horizon_s) >= 1.0


@given(rate=st.floats(0.2, 3.0), seed=st.integers(0, 100))
def test_a_job_is_done_in_time_whatever_the_background_leaves(rate: float, seed: int) -> None:
    """A small world: urgent rows end after two seconds, background ones at a rate of their own."""
    pace = Pace(0.0, 100.0, 90)
    done, urgent, left, credit = 0, list[float](), 90, 0.0
    for second in range(101):
        done += sum(end <= second for end in urgent)
        urgent = [end for end in urgent if end > second]
        credit += rate if seed % 2 else 0.0
        background = min(left, int(credit))
        credit -= background
        left, done = left - background, done + background
        wanted = min(left, pace.lag(done, len(urgent), second, 2.0))
        urgent += [second + 2.0] * wanted
        left -= wanted
    assert done == 90
