from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.lengths import BranchFrequencies, LoopCounts, OutputLengths

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


@given(st.lists(st.sampled_from("abc"), max_size=50))
def test_odds_add_up_and_no_branch_is_impossible(taken: list[str]) -> None:
    odds = BranchFrequencies("abc")
    for branch in taken:
        odds.observe(branch)
    assert sum(odds.probabilities.values()) == pytest.approx(1)
    assert min(odds.probabilities.values()) > 0


def test_odds_converge_to_what_was_observed() -> None:
    odds = BranchFrequencies(["order", "search", "chat"])
    for branch in ["order"] * 600 + ["search"] * 300 + ["chat"] * 100:
        odds.observe(branch)
    assert odds.probabilities == pytest.approx({"order": 0.6, "search": 0.3, "chat": 0.1}, abs=0.002)


def test_an_unknown_branch_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="'refund'"):
        BranchFrequencies(["order"]).observe("refund")
    with pytest.raises(SpecError, match="distinct"):
        BranchFrequencies(["order", "order"])


@given(st.integers(1, 8), st.lists(st.integers(1, 8), max_size=40), st.integers(0, 7))
def test_loop_odds_add_up_whatever_is_done(bound: int, rounds: list[int], done: int) -> None:
    loops = LoopCounts(bound)
    for count in rounds:
        loops.observe(min(count, bound))
    done = min(done, bound - 1)
    assert sum(loops.probability(n, done) for n in range(bound + 2)) == pytest.approx(1)
    assert done < loops.mean(done) <= bound + 1e-9
    assert done < loops.quantile(0.5, done) <= loops.quantile(0.99, done) <= bound


def test_loop_counts_converge_to_what_was_observed() -> None:
    loops = LoopCounts(bound=5)
    for rounds in [1] * 500 + [2] * 300 + [5] * 200:
        loops.observe(rounds)
    assert loops.mean() == pytest.approx(0.5 + 0.6 + 1.0, abs=0.01)
    assert loops.probability(2) == pytest.approx(0.3, abs=0.002)
    assert loops.probability(5, done=2) == pytest.approx(1.0, abs=0.01)
    assert (loops.quantile(0.49), loops.quantile(0.81)) == (1, 5)


def test_rounds_beyond_the_bound_are_refused() -> None:
    with pytest.raises(SpecError, match="bounded by 3"):
        LoopCounts(3).observe(4)
    with pytest.raises(SpecError, match="bound"):
        LoopCounts(0)
