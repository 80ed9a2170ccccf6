from __future__ import annotations

import pytest

from dask_fmware.provisioning.passing import Passing

LEAD_S = 7.0


def told(rates: list[float], span_s: float = 20.0) -> list[float]:
    passing = Passing()
    return [passing.observe(float(second), rate, LEAD_S, span_s) for second, rate in enumerate(rates)]


def bursts(every_s: int, length_s: int, seconds: int = 1500) -> list[float]:
    return [10.0 if second % every_s < length_s and second >= every_s else 0.1 for second in range(seconds)]


def test_the_third_burst_that_is_over_before_a_replica_has_loaded_is_not_believed() -> None:
    believed = told(bursts(200, 3))
    assert believed[200] == believed[400] == 1.0
    assert all(believed[at] < 0.05 for at in range(600, 1500, 200))


@pytest.mark.parametrize(("every_s", "length_s"), [(200, 30), (25, 3)])
def test_bursts_that_last_or_come_again_while_replicas_are_kept_are_believed(every_s: int, length_s: int) -> None:
    assert set(told(bursts(every_s, length_s))) == {1.0}


def test_after_bursts_a_rise_that_lasts_is_believed_once_it_has_lasted_for_a_load_time() -> None:
    believed = told(bursts(200, 3, 1000) + [10.0] * 60)
    assert believed[1000] < 0.05
    assert set(believed[1000 + int(LEAD_S) :]) == {1.0}


def test_bursts_are_forgotten_after_some_rises_that_last() -> None:
    steps = [10.0 if second % 200 < 100 else 0.1 for second in range(1400)]
    assert set(told(bursts(200, 3, 1000) + steps)[2000:]) == {1.0}


def test_outside_of_a_rise_all_is_believed() -> None:
    believed = told(bursts(200, 3))
    assert all(believed[at] == 1.0 for at in range(700, 800))


def test_a_first_load_of_all_is_believed() -> None:
    assert set(told([0.0, 3.0, 3.0, 3.0] * 20)) == {1.0}


def test_a_silence_that_ends_is_no_rise() -> None:
    silences = [0.0 if second % 200 > 100 else rate for second, rate in enumerate(bursts(200, 3))]
    assert all(told(silences)[at] < 0.1 for at in range(600, 1500, 200))


def test_looks_at_the_same_moment_and_after_a_long_time_are_harmless() -> None:
    passing = Passing()
    assert [passing.observe(now, 3.0, LEAD_S, 20.0) for now in (0.0, 0.0, 5000.0, 5000.0)] == [1.0] * 4
