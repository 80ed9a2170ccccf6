from __future__ import annotations

import random
from statistics import pstdev

from dask_fmware.provisioning.usual import FEWEST, MEMORY_S, PART_S, UsualLengths
from dask_fmware.runtime.learning.histories import Mean


def test_means_of_wide_lengths_stand_still() -> None:
    usual, latest, draw = UsualLengths(), Mean(), random.Random(1)
    by_time, by_count = [], []
    for tick in range(8000):
        prompt, output = draw.expovariate(1 / 1000), draw.expovariate(1 / 200)
        usual.observe(tick / 10, prompt, output)
        latest.add(output)
        if tick > 4000 and tick % 10 == 0:
            by_time.append(usual.means()[2] / 200)
            by_count.append(latest.value / 200)
    assert pstdev(by_time) < 0.03
    assert pstdev(by_count) > 2 * pstdev(by_time)


def test_other_lengths_are_seen_soon() -> None:
    usual, draw = UsualLengths(), random.Random(2)
    for tick in range(6000):
        usual.observe(tick / 10, draw.expovariate(1 / 1000), draw.expovariate(1 / 200))
    for tick in range(6000, 6400):
        usual.observe(tick / 10, draw.expovariate(1 / 3000), draw.expovariate(1 / 200))
    assert usual.means()[1] > 2500


def test_seldom_calls_are_remembered_for_longer_and_frequent_ones_not() -> None:
    seldom, frequent = UsualLengths(), UsualLengths()
    for hour in range(50):
        seldom.observe(3600.0 * hour, 1000, 100)
    for second in range(3600):
        frequent.observe(float(second), 1000, 100)
    assert seldom.means() == (50, 1000.0, 100.0)
    assert FEWEST < frequent.means()[0] <= MEMORY_S + 2 * PART_S
