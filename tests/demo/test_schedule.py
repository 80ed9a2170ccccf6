from itertools import pairwise
from statistics import mean

import pytest

from dask_fmware.demo.schedule import poisson, schedule, stretch
from dask_fmware.demo.trace import TraceRow, fit_lengths


def test_equal_seeds_give_equal_loads():
    assert schedule(50, 2.0, seed=7) == schedule(50, 2.0, seed=7)
    assert schedule(50, 2.0, seed=7) != schedule(50, 2.0, seed=8)


def test_rate_changes_arrivals_but_not_inputs():
    slow, fast = schedule(50, 1.0, seed=3), schedule(50, 4.0, seed=3)
    assert [run.text for run in slow] == [run.text for run in fast]
    assert slow[-1].arrival_s == pytest.approx(4 * fast[-1].arrival_s)


def test_poisson_arrivals_have_the_mean_and_the_spread_of_an_exponential():
    times = poisson(20_001, 2.0, seed=1)
    gaps = [b - a for a, b in pairwise(times)]
    assert mean(gaps) == pytest.approx(0.5, rel=0.03)
    assert mean((gap - 0.5) ** 2 for gap in gaps) == pytest.approx(0.25, rel=0.08)


def test_both_workflows_are_mixed():
    kinds = [run.workflow for run in schedule(400, 1.0, seed=0)]
    assert 150 < kinds.count("rag") < 250
    assert len(set(kinds)) == 2


def test_trace_keeps_its_shape_at_another_rate():
    times, factor = stretch([5.0, 6.0, 9.0], rate=1.0)
    assert times == [0.0, 0.5, 2.0]
    assert factor == 0.5


def test_trace_that_comes_all_at_once_is_submitted_all_at_once():
    assert stretch([3.0, 3.0], rate=1.0) == ([0.0, 0.0], 1.0)


def test_runs_bound_a_trace_and_take_its_lengths():
    rows = [TraceRow(float(n), 100 * n, 10) for n in range(1, 9)]
    runs = schedule(4, 1.0, 0, trace=rows, lengths=fit_lengths(rows, 1024))
    assert [run.arrival_s for run in runs] == pytest.approx([0.0, 1.0, 2.0, 3.0])
    assert [run.padding_tokens for run in runs] == [32, 64, 96, 128]
    assert {run.answer_tokens for run in runs} == {16}


def test_trace_of_one_row_is_one_run():
    rows = [TraceRow(5.0, 1, 1)]
    assert schedule(10, 1.0, 0, trace=rows, lengths=fit_lengths(rows, 64))[0].arrival_s == 0.0
