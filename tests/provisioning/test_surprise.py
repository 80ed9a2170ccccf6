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
