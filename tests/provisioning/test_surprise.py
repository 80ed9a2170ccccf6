from __future__ import annotations

import random

from dask_fmware.provisioning.surprise import Surprise


def learnt(miss: float, jumps: float, *, rate: float = 10.0, minutes: int = 600) -> float:
    """The factor after hours in which a share of the minutes brings half as much again as was foreseen."""
    surprise, draw = Surprise(miss), random.Random(4)
    factor = 1.0
    for minute in range(minutes):
        come = 1.5 * rate if draw.random() < jumps else rate
        factor = surprise.observe(60.0 * minute, 300.0, rate, come)
    return factor


def test_room_is_kept_for_as_many_surprises_as_may_not_be_missed() -> None:
    assert learnt(0.05, jumps=0.0) == 1.0
    assert learnt(0.05, jumps=0.01) == 1.0  # fewer than may be missed
    assert 1.3 < learnt(0.05, jumps=0.2) <= 1.5
    assert 1.3 < learnt(0.01, jumps=0.04) <= 1.5


def test_little_is_learnt_from_little() -> None:
    assert learnt(0.05, jumps=1.0, minutes=20) == 1.0


def test_noise_surprises_nobody() -> None:
    surprise, draw = Surprise(0.05), random.Random(5)
    for minute in range(600):
        factor = surprise.observe(60.0 * minute, 30.0, 2.0, draw.gauss(2.0, 2.0 / (2.0 * 600) ** 0.5))
    assert factor < 1.03


def test_the_longer_runs_are_late_after_a_surprise_the_less_often_one_may_be_missed() -> None:
    found = {}
    for late_for in (0, 1, 4):  # minutes after each jump
        surprise, factors = Surprise(0.05), []
        for minute in range(720):
            jumps = minute % 40 == 0
            late = 1.0 if minute % 40 < late_for else 0.0
            factors.append(surprise.observe(60.0 * minute, 300.0, 10.0, 15.0 if jumps else 10.0, late))
        found[late_for] = factors[-1]
    assert found[0] == found[1] == 1.0  # 2.5 % of the time, as of the runs
    assert 1.3 < found[4] <= 1.5  # ... but 10 % of the runs


def test_what_was_late_long_ago_is_forgotten() -> None:
    surprise, factors = Surprise(0.05), []
    for minute in range(720):
        late = 1.0 if minute < 60 else 0.0
        factors.append(surprise.observe(60.0 * minute, 300.0, 10.0, 15.0 if minute % 40 == 0 else 10.0, late))
    assert max(factors) > 1.3
    assert factors[-1] == 1.0
