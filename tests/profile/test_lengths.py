from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.lengths import OutputLengths

counts = st.lists(st.integers(1, 400), min_size=5, max_size=60)


def lengths(history: list[int], window: int = 500) -> OutputLengths:
    found = OutputLengths(window)
    for tokens in history:
        found.observe("rag", "answer", tokens)
    return found


def test_without_history_max_tokens_is_assumed() -> None:
    assert lengths([10, 10, 10, 10]).quantile("rag", "answer", 0.5, 256) == 256
    assert OutputLengths().samples("rag", "answer") == 0


def test_nodes_do_not_share_history() -> None:
    found = lengths([10] * 9)
    assert found.quantile("rag", "answer", 0.5, 256) == 10
    assert found.quantile("rag", "rewrite", 0.5, 256) == 256
    assert found.quantile("shop", "answer", 0.5, 256) == 256


@given(counts, st.floats(0, 1), st.floats(0, 1), st.integers(1, 500))
def test_a_higher_quantile_is_never_shorter_and_never_beyond_max_tokens(
    history: list[int], one: float, other: float, max_tokens: int
) -> None:
    low, high = (lengths(history).quantile("rag", "answer", q, max_tokens) for q in sorted((one, other)))
    assert low <= high <= max_tokens


@given(counts, st.integers(1, 500))
def test_what_was_generated_is_counted_in(history: list[int], generated: int) -> None:
    expected = lengths(history).quantile("rag", "answer", 0.5, 512, generated)
    assert expected > generated
    assert expected in [*history, 512]


def test_old_calls_leave_the_window() -> None:
    found = lengths([400] * 50 + [20] * 10, window=10)
    assert found.quantile("rag", "answer", 0.9, 512) == 20
    assert found.samples("rag", "answer") == 10


def test_quantiles_converge_to_the_distribution() -> None:
    rng = np.random.default_rng(0)
    found = lengths([int(n) for n in rng.integers(1, 101, 2000)], window=2000)
    assert found.quantile("rag", "answer", 0.9, 512) == pytest.approx(90, abs=3)


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_a_quantile_outside_zero_to_one_is_refused(q: float) -> None:
    with pytest.raises(SpecError, match="quantile"):
        OutputLengths().quantile("rag", "answer", q, 10)


def test_a_window_below_what_is_needed_is_refused() -> None:
    with pytest.raises(SpecError, match="window"):
        OutputLengths(window=3)
