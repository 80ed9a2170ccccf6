"""Starts that fail: the card is left alone for a while, and a minimum may not be kept meanwhile."""

from __future__ import annotations

from itertools import pairwise

from dask_fmware.provisioning import Planner, ReplicaNow
from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.spec.provisioning import Bounds, Provisioning
from tests.provisioning.builders import flow, inventory, kinds, ready, seen


def test_a_failed_start_is_removed_its_card_left_alone_and_another_taken() -> None:
    planner = Planner(inventory({"slow": 1.0, "fast": 3.0}), Provisioning(retry_s=20))
    failed = ready("m-0", state="failed", error="no memory", since=5.0)
    plan = planner.plan(seen(flow(2.0), replicas=(failed,)), 5.0)
    assert [(s.kind, s.accelerator) for s in plan.steps] == [("stop", "slow"), ("start", "fast")]
    assert "no memory" in plan.reasons["m"]
    later = planner.plan(seen(flow(2.0)), 30.0)
    assert {step.accelerator for step in later.steps} == {"slow"}


def test_while_a_start_fails_a_minimum_that_would_cost_too_much_is_a_reason_and_no_error() -> None:
    options = Provisioning(models={"a": Bounds(min_replicas=1)}, max_cost_per_hour=2.5, retry_s=20)
    planner = Planner(inventory({"slow": 1.0, "fast": 3.0}, models=("a", "b")), options)
    failed = ready("a-0", model="a", state="failed", error="no memory")
    plan = planner.plan(seen(flow(0.1, model="b"), replicas=(failed,)), 1.0)
    assert [(s.kind, s.model) for s in plan.steps] == [("stop", "a"), ("start", "b")]
    assert "1 below min_replicas=1 for now, as starts fail" in plan.reasons["a"]
    later = planner.plan(seen(flow(0.1, model="b")), 30.0)
    assert [(s.kind, s.model) for s in later.steps] == [("start", "a"), ("start", "b")]


def test_while_a_start_fails_the_minimum_of_a_model_does_not_take_the_card_of_another() -> None:
    base = inventory({"X": 1.0, "Y": 1.0}, models=("a", "b"), cards=1)
    kinds_ = {key: kind for key, kind in base.kinds.items() if key != ("b", "Y")}
    planner = Planner(Inventory(base.cards, kinds_), Provisioning(default=Bounds(min_replicas=1)))
    there, failed = ready("b-0", "X", "b"), ready("a-0", "Y", "a", state="failed", error="no memory")
    plan = planner.plan(seen(replicas=(there, failed)), 1.0)
    assert kinds(plan) == ["stop"]
    assert plan.desired == {("b", "X"): 1}
    assert "1 below min_replicas=1 for now" in plan.reasons["a"]


def test_failures_in_a_row_are_tried_less_and_less_often() -> None:
    planner = Planner(inventory(), Provisioning(retry_s=10, most_retry_s=1000))
    starts, now, since = [], 0.0, 0.0
    replicas: tuple[ReplicaNow, ...] = ()
    while now < 500:
        plan = planner.plan(seen(flow(0.5), replicas=replicas), now)
        replicas = ()
        if "start" in kinds(plan):
            starts.append(now)
            since = now
            replicas = (ready("m-0", state="failed", error="crash", since=since),)
        now += 1
    gaps = [b - a for a, b in pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 100
