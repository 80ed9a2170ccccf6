from __future__ import annotations

from dask_fmware.evaluation.progress import RATE_S, Meter


def test_rows_that_are_recorded_together_took_their_time_all_the_same() -> None:
    meter = Meter()
    assert meter.rate(0.0) == 0
    meter.begin(100.0)
    meter.begin(101.0)
    for _ in range(4):
        meter.add(1, 102.0)
    assert meter.rate(102.0) == 2
    assert meter.rate(104.0) == 1


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    meter = Meter()
    meter.begin(0.0)
    for second in range(1, 101):
        meter.add(2 if second > 50 else 10, float(second))
    assert abs(meter.rate(100.0) - 2) < 0.1
    assert meter.rate(101.0 + RATE_S) == 0
