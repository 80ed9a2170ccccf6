"""The modes beside the projection, and what all of them keep to."""

from __future__ import annotations

import pytest

from dask_fmware.provisioning import ModelLoad, Planner
from dask_fmware.provisioning.views import Plan
from dask_fmware.spec.provisioning import Provisioning
from tests.provisioning.builders import flow, inventory, kinds, ready, seen, stock


def test_asked_for_by_hand_it_does_that_and_nothing_else() -> None:
    planner = Planner(inventory({"slow": 1.0, "fast": 3.0}), Provisioning(mode="manual"))
    planner.wanted = {("m", "fast"): 2}
    plan = planner.plan(seen(flow(50.0), replicas=stock(1)), 0.0)
    assert sorted((s.kind, s.accelerator) for s in plan.steps) == [("start", "fast"), ("start", "fast")]


@pytest.mark.parametrize("mode", ["projection", "simple", "queue_length", "manual"])
def test_plans_travel_as_plain_values(mode: str) -> None:
    plan = Planner(inventory(), Provisioning.model_validate({"mode": mode})).plan(
        seen(flow(3.0), m=ModelLoad(held=5)), 0.0
    )
    assert Plan.from_wire(plan.to_wire()) == plan


def test_simple_adds_when_slack_is_exhausted_and_removes_what_is_idle() -> None:
    planner = Planner(inventory(), Provisioning(mode="simple", idle_s=30, cool_down_s=10))
    late = ModelLoad(ended=100, missed=20)
    assert kinds(planner.plan(seen(replicas=stock(1), m=late), 0.0)) == ["start"]
    assert not planner.plan(seen(replicas=stock(2), m=late), 5.0).steps  # cooling down
    assert not planner.plan(seen(replicas=stock(2), m=ModelLoad(ended=100, missed=5)), 20.0).steps
    idle = (ready("m-0"), ready("m-1", idle_since=0.0))
    assert [s.replica for s in planner.plan(seen(replicas=idle), 40.0).steps] == ["m-1"]


def test_queue_length_starts_after_its_delay() -> None:
    options = Provisioning(mode="queue_length", target_ongoing=2, upscale_delay_s=10, downscale_delay_s=50)
    planner = Planner(inventory(), options)
    busy = ModelLoad(held=4, running=4)
    begun = [now for now in range(20) if planner.plan(seen(replicas=stock(1), m=busy), float(now)).steps]
    assert begun[0] == 10


@pytest.mark.parametrize(("per_card", "most"), [(1, 7), (2, 14), (4, 28)])
@pytest.mark.parametrize("mode", ["projection", "simple", "queue_length"])
def test_no_mode_starts_more_than_the_bound_of_the_cost_allows(mode: str, per_card: int, most: int) -> None:
    options = {"mode": mode, "max_cost_per_hour": 0.75, "cool_down_s": 0, "upscale_delay_s": 0, "exhausted_share": 0}
    cards = inventory(prices={"slow": 0.1}, cards=20, per_card=per_card)
    planner = Planner(cards, Provisioning.model_validate(options))
    crowd, have = ModelLoad(held=90, running=8, ended=100, missed=90), stock(1)
    for now in range(32):
        plan = planner.plan(seen(flow(90.0), replicas=have, m=crowd), float(now))
        have = stock(len(have) + kinds(plan).count("start"))
        assert plan.cost_per_hour <= 0.75
    assert len(have) == most


def test_of_idle_replicas_those_go_first_whose_cards_become_free() -> None:
    cards = {"m-0": "A-0", "m-1": "A-1", "m-2": "A-0", "m-3": "A-1", "m-4": "A-2"}
    there = tuple(ready(name, idle_since=float(i), card=card) for i, (name, card) in enumerate(cards.items()))
    for most, gone in ((4, {"m-4"}), (3, {"m-4", "m-0"}), (2, {"m-4", "m-0", "m-2"})):
        planner = Planner(inventory(cards=3, per_card=2), Provisioning(mode="manual"))
        planner.wanted = {("m", "slow"): most}
        assert {step.replica for step in planner.plan(seen(replicas=there), 60.0).steps} == gone


@pytest.mark.parametrize("mode", ["projection", "simple", "queue_length"])
def test_a_replica_that_takes_no_calls_keeps_its_place_and_counts_for_nothing_else(mode: str) -> None:
    options = {"mode": mode, "idle_s": 20, "cool_down_s": 0, "downscale_delay_s": 5, "upscale_delay_s": 0}
    away = ready("m-0", idle_since=0.0, is_ours=False, takes_calls=False)
    planner = Planner(inventory(), Provisioning.model_validate(options))
    for now in range(60):
        assert not planner.plan(seen(replicas=(away,), m=ModelLoad()), float(now)).steps
    planner = Planner(inventory(cards=2), Provisioning.model_validate({**options, "default": {"min_replicas": 1}}))
    assert kinds(planner.plan(seen(replicas=(away,)), 0.0)) == ["start"]
    for now in range(10, 60):
        there = (away, ready("m-1", idle_since=0.0))
        assert not planner.plan(seen(replicas=there, m=ModelLoad(last_call=0.0)), float(now)).steps


def test_by_hand_a_replica_that_takes_no_calls_at_the_beginning_is_kept() -> None:
    planner = Planner(inventory(), Provisioning(mode="manual"))
    planner.plan(seen(replicas=(ready("m-0", is_ours=False, takes_calls=False), ready("m-1"))), 0.0)
    assert not planner.plan(seen(replicas=stock(2)), 10.0).steps


@pytest.mark.parametrize("mode", ["projection", "simple", "queue_length"])
def test_background_work_has_one_replica_and_no_more(mode: str) -> None:
    options = {"mode": mode, "upscale_delay_s": 0, "downscale_delay_s": 5, "idle_s": 20, "cool_down_s": 0}
    planner, have = Planner(inventory(), Provisioning.model_validate(options)), stock(0)
    for now in range(120):
        running = 8 * len(have)
        job = ModelLoad(
            held=16, running=running, last_call=float(now), held_in_background=16, running_in_background=running
        )
        plan = planner.plan(seen(replicas=have, m=job), float(now))
        assert kinds(plan) == ([] if have else ["start"])
        have = stock(1, running=8)
