"""Rows that are started, answered and given deadlines, on two clocks that the tests set."""

from __future__ import annotations

import pytest

from dask_fmware.evaluation import pacer
from dask_fmware.evaluation.flight import Flight
from dask_fmware.evaluation.pacer import Pacer
from dask_fmware.evaluation.record import Record


class Clocks:
    """The calendar's, and one that nobody sets."""

    def __init__(self) -> None:
        self.wall = 1000.0
        self.steady = 5.0

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(pacer, "time", lambda: made.wall)
    monkeypatch.setattr(pacer, "monotonic", lambda: made.steady)
    return made


def start(paced: Pacer, number: int) -> Flight:
    return paced.start(Record(number, str(number)), {})


def test_a_row_that_is_answered_is_not_late_while_it_waits_to_be_recorded(clocks: Clocks) -> None:
    paced = Pacer(finish_by=1100.0, rows=10)  # one every nine seconds
    first = start(paced, 0)
    assert paced.objective(first) is None
    clocks.go_on(1.0)
    paced.ran(first)
    paced.end(first)
    clocks.go_on(15.0)
    assert paced.flights == set()
    assert paced.objective(start(paced, 1)) is None
    clocks.go_on(9.0)
    late = paced.objective(start(paced, 2))
    assert late is not None
    assert late.e2e_s == pytest.approx(2.0)


def test_without_a_moment_to_finish_by_nothing_is_urgent(clocks: Clocks) -> None:
    for paced in (Pacer(None, 10), Pacer(1100.0, None)):
        one = start(paced, 0)
        clocks.go_on(3600.0)
        paced.promote()
        assert paced.objective(one) is None
        assert paced.judges_objective(one) is None


def test_a_calendar_that_is_set_back_makes_no_time_negative(clocks: Clocks) -> None:
    paced = Pacer(finish_by=1100.0, rows=10)
    row = start(paced, 0)
    clocks.go_on(3.0)
    clocks.wall -= 3600.0
    paced.ran(row)
    row.is_urgent = True
    judged = paced.judges_objective(row)
    assert judged is not None
    assert judged.e2e_s == pytest.approx(10.0 * (1.0 + 0.05 * 2.0))
