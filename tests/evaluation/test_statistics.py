"""Intervals that hold the truth as often as they say, and tests that cry wolf no more often than they may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy")

from dask_fmware.evaluation.statistics import difference, holm, mean


def test_a_mean_of_truth_values_has_wilsons_interval() -> None:
    made = mean([1.0] * 8 + [0.0] * 2 + [float("nan")])
    assert made is not None
    assert (made.rows, made.mean) == (10, 0.8)
    assert (made.low, made.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))  # by hand


def test_a_mean_of_one_value_has_no_interval_and_of_none_is_none() -> None:
    one = mean([2.5])
    assert one is not None
    assert (one.mean, one.low, one.high) == (2.5, None, None)
    assert mean([float("nan")]) is None


def test_values_that_are_all_alike_tell_nothing_of_the_spread() -> None:
    alike = mean([0.1, 0.3 - 0.2])
    assert alike is not None
    assert (alike.rows, alike.low, alike.high) == (2, None, None)
    made = difference([0.1, 0.2, 0.3], [0.6, 0.7, 0.8])
    assert made is not None
    assert (made.mean, made.low, made.high) == (pytest.approx(0.5), None, None)
    assert made.a.low is not None


@pytest.mark.parametrize("kind", ["truth", "numbers"])
def test_intervals_hold_the_truth_19_times_in_20(kind: str) -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(600):
        values = (random.random(60) < 0.3).astype(float) if kind == "truth" else random.normal(0.3, 1.0, 60)
        made = mean(values)
        assert made is not None
        assert made.low is not None
        assert made.high is not None
        held += made.low <= 0.3 <= made.high
    assert 0.92 < held / 600 < 0.98


def test_mcnemar_is_the_exact_test_of_the_rows_that_changed() -> None:
    a = np.array([0.0] * 10 + [1.0] * 3 + [1.0] * 40)
    b = np.array([1.0] * 10 + [0.0] * 3 + [1.0] * 40)
    made = difference(a, b)
    assert made is not None
    assert (made.better, made.worse, made.test) == (10, 3, "McNemar, exact")
    assert made.p == pytest.approx(0.092285, abs=1e-5)  # 2 * P(X <= 3), X binomial(13, 1/2)


@pytest.mark.parametrize("rows", [5, 20])
def test_a_difference_of_few_truth_values_is_in_its_interval_also_where_hardly_a_row_changes(rows: int) -> None:
    random, held = np.random.default_rng(3), 0
    for _ in range(300):
        better = random.random(rows) < 0.05
        made = difference(np.zeros(rows), better.astype(float))
        assert made is not None
        assert made.low is not None
        assert made.high is not None
        assert made.low <= made.mean <= made.high
        held += made.low <= 0.05 <= made.high
    assert held / 300 > 0.93


def test_the_interval_of_truth_values_is_that_of_bonett_and_price() -> None:
    made = difference([0.0] * 10 + [1.0] * 3 + [1.0] * 40, [1.0] * 10 + [0.0] * 3 + [1.0] * 40)
    assert made is not None
    assert (made.low, made.high) == (pytest.approx(-0.0066, abs=1e-4), pytest.approx(0.2611, abs=1e-4))  # by hand


def test_a_permutation_test_of_few_rows_is_near_the_full_enumeration() -> None:
    change = np.array([0.5, 1.0, 1.5, 2.0, -0.25])
    made = difference(np.zeros(5), change)
    sums = [abs(sum(s * c for s, c in zip(signs, change, strict=True))) for signs in _signs(5)]
    exact = sum(s >= abs(change.sum()) - 1e-12 for s in sums) / len(sums)
    assert made is not None
    assert made.p == pytest.approx(exact, abs=0.02)


def _signs(n: int) -> list[tuple[int, ...]]:
    return [tuple(1 if number >> bit & 1 else -1 for bit in range(n)) for number in range(2**n)]


def test_no_difference_is_found_by_chance_no_more_often_than_said() -> None:
    random, found = np.random.default_rng(2), 0
    for seed in range(200):
        rows = random.normal(0, 3, 40)  # hard and easy rows, which a paired test takes out
        made = difference(rows + random.normal(0, 1, 40), rows + random.normal(0, 1, 40), seed)
        assert made is not None
        assert made.p is not None
        found += made.p <= 0.05
    assert found <= 22  # of 200; 10 are expected, 22 would be a chance of 1 in 2,000


def test_rows_that_only_one_has_are_left_out() -> None:
    made = difference([1.0, float("nan"), 3.0], [2.0, 5.0, float("nan")])
    assert made is not None
    assert (made.rows, made.mean, made.p) == (1, 1.0, None)
    assert difference([float("nan")], [1.0]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_is_never_below_the_plain_value(ps: list[float]) -> None:
    made = holm(ps)
    assert all(m is not None and p <= m <= 1 for p, m in zip(ps, made, strict=True))
    ordered = [m for _, m in sorted(zip(ps, made, strict=True)) if m is not None]
    assert ordered == sorted(ordered)
