"""Quantile sketches: within their error, and equal however the values were put together."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.observe.quantiles import QuantileSketch

VALUES = st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=200)


def sketch(values: list[float]) -> QuantileSketch:
    made = QuantileSketch()
    for value in values:
        made.add(value)
    return made


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_within_two_percent_of_the_value_at_its_rank(values: list[float], q: float) -> None:
    exact = sorted(values)[max(1, ceil(q * len(values))) - 1]
    assert sketch(values).quantile(q) == pytest.approx(exact, rel=0.0201)


@given(VALUES, VALUES)
def test_merging_equals_counting_together(left: list[float], right: list[float]) -> None:
    merged, together = sketch(left), sketch(left + right)
    merged.merge(sketch(right))
    assert (merged.bins, merged.count) == (together.bins, together.count)
    assert merged.total == pytest.approx(together.total)


def test_no_values_have_no_quantile_and_zero_counts_as_the_least() -> None:
    assert QuantileSketch().quantiles((0.5, 0.9)) == [None, None]
    assert sketch([0.0]).quantile(0.5) == pytest.approx(1e-6, rel=0.05)
