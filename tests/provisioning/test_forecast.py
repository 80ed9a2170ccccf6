from __future__ import annotations

import random

import pytest

from dask_fmware.provisioning.forecast import ArrivalRate, Peak


def poisson(rate: ArrivalRate, per_s: float, seconds: range, draw: random.Random) -> None:
    for second in seconds:
        rate.observe(float(second), sum(draw.random() < per_s / 1000 for _ in range(1000)))


def test_a_step_is_seen_within_seconds() -> None:
    rate, draw = ArrivalRate(), random.Random(1)
    poisson(rate, 10, range(120), draw)
    poisson(rate, 40, range(120, 126), draw)
    assert rate.now(126.0) > 30


@pytest.mark.parametrize(("low", "high"), [(10, 40), (2, 8)])
def test_a_step_is_not_forgotten_while_the_long_windows_catch_up(low: float, high: float) -> None:
    rate, draw = ArrivalRate(), random.Random(1)
    poisson(rate, low, range(900), draw)
    for second in range(900, 1600):
        poisson(rate, high, range(second, second + 1), draw)
        if second >= 930:
            assert 0.7 * high < rate.now(second + 1.0) < 1.4 * high
    for second in range(1600, 2300):
        poisson(rate, low, range(second, second + 1), draw)
        if second >= 1630:
            assert rate.now(second + 1.0) < 1.7 * low


@pytest.mark.parametrize("stall_s", [2, 3, 5])
def test_what_comes_at_once_after_a_stall_is_no_step(stall_s: int) -> None:
    rate, draw = ArrivalRate(), random.Random(2)
    poisson(rate, 6, range(200), draw)
    for second in range(200, 200 + stall_s):
        assert rate.now(second + 1.0) < 10
    rate.observe(200.0 + stall_s, 6 * (stall_s + 1))
    for second in range(200 + stall_s + 1, 240):
        poisson(rate, 6, range(second, second + 1), draw)
        assert rate.now(second + 1.0) < 10


def test_a_load_that_ends_is_seen_within_seconds() -> None:
    rate, draw = ArrivalRate(), random.Random(1)
    poisson(rate, 10, range(200), draw)
    assert rate.now(208.0) < 2


def test_noise_is_not_taken_for_a_step_or_a_trend() -> None:
    alarms = trends = 0
    for seed in range(10):
        rate, draw = ArrivalRate(), random.Random(seed)
        for second in range(600):
            poisson(rate, 10, range(second, second + 1), draw)
            if second > 70:
                alarms += rate.now(second + 1.0) > 14
                trends += abs(rate.trend(second + 1.0)) * 60 > 10
    assert alarms < 10
    assert trends < 100


def test_a_trend_is_found() -> None:
    rate = ArrivalRate()
    for second in range(300):
        rate.observe(float(second), 10 + second // 10)
    assert 0.08 < rate.trend(300.0) < 0.12


def test_bursts_are_told_from_poisson() -> None:
    even, bursts, draw = ArrivalRate(), ArrivalRate(), random.Random(3)
    poisson(even, 10, range(300), draw)
    for second in range(300):
        bursts.observe(float(second), 100 if second % 17 == 0 else 4)
    assert even.burstiness(300.0) < 2 < bursts.burstiness(300.0)


def test_a_peak_is_held_for_its_time() -> None:
    peak = Peak()
    assert [peak.observe(float(t), v, 10.0) for t, v in ((0, 5), (1, 9), (5, 2), (11, 1), (12, 1))] == [5, 9, 9, 9, 2]


@pytest.mark.parametrize("clump", [1, 8])
def test_clumps_of_bursty_arrivals_are_not_taken_for_steps(clump: int) -> None:
    rate, draw, alarms = ArrivalRate(), random.Random(5), 0
    for second in range(1500):
        rate.observe(float(second), clump * sum(draw.random() < 10 / clump / 100 for _ in range(100)))
        if second > 300:
            alarms += not 7 < rate.now(second + 1.0) < 14
    assert alarms < 40


@pytest.mark.parametrize("seed", range(4))
def test_a_step_up_and_down_is_no_clump(seed: int) -> None:
    rate, draw = ArrivalRate(), random.Random(seed)
    for second in range(150):
        poisson(rate, 12 if 30 <= second < 60 else 3, range(second, second + 1), draw)
        if second >= 98:
            assert rate.now(second + 1.0) < 4.5


def test_a_clock_that_is_set_back_makes_no_burst() -> None:
    rate = ArrivalRate()
    for second in (*range(600), *range(300, 600)):
        rate.observe(float(second))
        assert second < 10 or rate.now(second + 1.0) == pytest.approx(1.0, rel=0.1)
    assert rate.now(605.0) == pytest.approx(1.0, rel=0.1)
