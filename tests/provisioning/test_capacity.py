from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from dask_fmware.profile.emulation import EmulatedBatch
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning.capacity import CallClass, bearing, late_share, load_at
from dask_fmware.provisioning.inventory import Kind
from tests.provisioning.builders import LAW


def kind(slots: int) -> Kind:
    return Kind("m", "a", LAW, Limits(slots), 1.0, 1.0)


def calls(budget_s: float = inf, *, answers: bool = False) -> CallClass:
    return CallClass("w", "n", "m", 1.0, 400, 80, budget_s, answers)


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_rate_is_what_an_emulated_engine_completes_when_it_is_never_idle(slots: int) -> None:
    batch = EmulatedBatch(LAW, Limits(slots))
    for number in range(400):
        batch.add(0.0, str(number), 400, 80)
    ends = []
    while batch.next_event_at < inf:
        ends += [output.at for output in batch.advance(batch.next_event_at) if output.kind == 1]
    measured = 200 / (ends[299] - ends[99])
    assert bearing(kind(slots), calls()).rate == pytest.approx(measured, rel=0.1)


def test_a_tight_budget_makes_the_batch_smaller() -> None:
    loose, tight = bearing(kind(64), calls(60.0)), bearing(kind(64), calls(4.0))
    assert loose.batch > tight.batch >= 1
    assert tight.execution_s <= 4.0


def test_a_budget_below_one_call_alone_is_told_by_a_batch_of_none() -> None:
    assert bearing(kind(8), calls(0.5)).batch == 0
    assert bearing(kind(8), calls(0.5, answers=True)).batch > 0  # the first token comes sooner


def test_more_servers_bear_a_higher_load() -> None:
    assert load_at(4, 1.0, 0.5, 0.05) < load_at(64, 1.0, 0.5, 0.05)
    assert load_at(64, 1.0, 0.5, 0.05, burstiness=8.0) < load_at(64, 1.0, 0.5, 0.05)
    assert late_share(8, 1.0, 8.0, 10.0) == 1.0
    assert late_share(8, 0.99, 8.0, inf) == 0.0


def test_a_call_longer_than_the_kv_cache_is_borne_by_no_replica() -> None:
    small = replace(kind(16), limits=Limits(16, kv_tokens=1_500))
    assert bearing(small, calls()).batch == 3
    assert bearing(small, replace(calls(), prompt_tokens=8_000)).batch == 0


def test_a_call_with_two_budgets_stays_in_both() -> None:
    first, end = calls(2.0, answers=True), calls(4.0)
    both = bearing(kind(64), replace(first, end_budget_s=4.0))
    assert both.batch == min(bearing(kind(64), each).batch for each in (first, end))
    assert both.spare_s == pytest.approx(4.0 - both.execution_s)  # the end has less left here
    assert bearing(kind(8), replace(calls(0.5, answers=True), end_budget_s=0.5)).batch == 0
