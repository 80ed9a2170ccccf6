"""How many replicas the projection wants, and when they start and go."""

from __future__ import annotations

import random

import pytest

from dask_fmware.provisioning import ModelLoad, NodeDemand, Planner, ReplicaNow, WorkflowDemand
from dask_fmware.provisioning.forecast import ArrivalRate
from dask_fmware.provisioning.steps import Stock
from dask_fmware.provisioning.views import Observation, Plan
from dask_fmware.simulation.arrivals import Arrival
from dask_fmware.simulation.provisioned import ProvisioningController
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from dask_fmware.spec.provisioning import Bounds, Provisioning
from tests.provisioning.builders import flow, inventory, kinds, ready, seen, stock


def test_replicas_start_before_the_load_that_a_trend_foretells() -> None:
    planner = Planner(inventory(load_s=120.0, cards=50), Provisioning())
    flat = sum(planner.plan(seen(flow(10.0)), 0.0).desired.values())
    rising = Planner(inventory(load_s=120.0, cards=50), Provisioning())
    assert sum(rising.plan(seen(flow(10.0, trend=0.05)), 0.0).desired.values()) > flat


def test_every_step_has_a_reason() -> None:
    plan = Planner(inventory(), Provisioning()).plan(seen(flow(3.0)), 0.0)
    assert plan.steps
    assert all("calls/s" in step.reason for step in plan.steps)


def test_nothing_is_started_twice_while_it_loads() -> None:
    planner = Planner(inventory(), Provisioning())
    first = planner.plan(seen(flow(3.0)), 0.0)
    loading = stock(len(first.steps), state="starting")
    assert not planner.plan(seen(flow(3.0), replicas=loading), 1.0).steps


def test_replicas_go_after_the_idle_period_and_not_before() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=100, cool_down_s=0))
    need = sum(planner.plan(seen(flow(20.0)), 0.0).desired.values())
    have = stock(need, idle_since=0.0)
    for now in range(1, 100, 9):
        assert not planner.plan(seen(flow(1.0), replicas=have), float(now)).steps
    drained = planner.plan(seen(flow(1.0), replicas=have), 110.0)
    assert set(kinds(drained)) == {"drain"}


@pytest.mark.parametrize(
    ("load_s", "idle_s", "stays_s"), [(5.0, None, 120.0), (300.0, None, 300.0), (300.0, 60.0, 60.0)]
)
def test_replicas_stay_for_as_long_as_a_start_takes_unless_told_otherwise(
    load_s: float, idle_s: float | None, stays_s: float
) -> None:
    planner = Planner(inventory(load_s=load_s), Provisioning(idle_s=idle_s, cool_down_s=0))
    need = sum(planner.plan(seen(flow(20.0)), 0.0).desired.values())
    have = stock(need, idle_since=0.0)
    plans = {now: planner.plan(seen(flow(1.0), replicas=have), now) for now in (1.0, stays_s - 1, stays_s + 1)}
    assert [now for now, plan in plans.items() if "drain" in kinds(plan)] == [stays_s + 1]
    assert f"not needed for {stays_s:.0f} s" in plans[stays_s + 1].reasons["m"]


def test_a_replica_with_work_is_drained_and_stopped_only_when_it_is_done() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=1, cool_down_s=0))
    planner.plan(seen(replicas=stock(1, running=2)), 0.0)
    drain = planner.plan(seen(replicas=stock(1, running=2)), 10.0)
    assert kinds(drain) == ["drain"]
    assert not planner.plan(seen(replicas=stock(1, state="draining", running=1)), 11.0).steps
    assert not planner.plan(seen(replicas=stock(1, state="draining", waiting=1)), 11.0).steps
    assert kinds(planner.plan(seen(replicas=stock(1, state="draining")), 12.0)) == ["stop"]


def test_a_replica_that_is_shut_counts_as_there_and_not_as_ready() -> None:
    """Another one behind the same rate limit would be shut as well, and what is to go in its favour stays meanwhile."""
    found = Stock.of(stock(2, state="shut"))
    assert (found.counts, found.ready) == ({("m", "slow"): 2}, {})
    planner = Planner(inventory(), Provisioning())
    wanted = planner.plan(seen(flow(1.0)), 0.0).desired["m", "slow"]
    assert not planner.plan(seen(flow(1.0), replicas=stock(wanted, state="shut", running=1)), 1.0).steps


def test_a_draining_replica_is_taken_back_when_its_model_is_asked_for_again() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=1, cool_down_s=0))
    plan = planner.plan(seen(flow(1.0), replicas=stock(1, state="draining", running=1)), 0.0)
    assert kinds(plan) == ["resume"]


def test_a_drained_replica_that_is_idle_already_is_taken_back_and_no_other_started() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=1, cool_down_s=0))
    drained = stock(1, state="draining", idle_since=0.0)
    assert kinds(planner.plan(seen(flow(1.0), replicas=drained), 0.0)) == ["resume"]
    lost = stock(1, state="draining")
    assert kinds(planner.plan(seen(flow(1.0), replicas=lost), 1.0)) == ["stop", "start"]


def test_to_zero_and_back() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=50, cool_down_s=0))
    planner.plan(seen(replicas=stock(1, idle_since=0.0)), 0.0)
    assert kinds(planner.plan(seen(replicas=stock(1, idle_since=0.0)), 60.0)) == ["drain"]
    assert not planner.plan(seen(), 70.0).steps
    woken = planner.plan(seen(m=ModelLoad(held=1)), 80.0)
    assert kinds(woken) == ["start"]
    assert "1 calls wait" in woken.steps[0].reason


def test_a_replica_that_has_worked_off_a_queue_is_idle_since_its_last_call_ended() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=50, cool_down_s=0))
    have, flows = stock(1, idle_since=99.0), flow(0.1)
    planner.plan(seen(flows, replicas=stock(1, running=1), m=ModelLoad(held=20, running=1, last_call=0.0)), 0.0)
    served = ModelLoad(last_call=99.0)
    for now in (100.0, 120.0, 148.0):
        assert not planner.plan(seen(flows, replicas=have, m=served), now).steps
    assert kinds(planner.plan(seen(flows, replicas=have, m=served), 149.0)) == ["drain"]


def test_while_calls_run_of_which_no_more_come_one_replica_stays() -> None:
    planner = Planner(inventory(), Provisioning(idle_s=50, cool_down_s=0))
    planner.plan(seen(flow(20.0), replicas=stock(3, running=8)), 0.0)
    for now in (60.0, 300.0):
        under_way = ModelLoad(running=24, last_call=now)
        plan = planner.plan(seen(flow(0.0), replicas=stock(3, running=8), m=under_way), now)
        assert plan.desired == {("m", "slow"): 1}
        assert "its last calls run" in plan.reasons["m"]
    assert not planner.plan(seen(flow(0.0), replicas=stock(1), m=ModelLoad(last_call=300.0)), 351.0).desired


def test_a_branch_that_was_never_taken_keeps_no_replica() -> None:
    planner = Planner(inventory(models=("m", "n")), Provisioning(idle_s=50, cool_down_s=0))
    nodes = tuple(NodeDemand(model, model, answers=True) for model in ("m", "n"))
    flows, have = WorkflowDemand("flow", nodes, 0.1, 2.0), stock(1, idle_since=10.0)
    loads = {"m": ModelLoad(last_call=10.0), "n": ModelLoad()}
    assert planner.plan(seen(flows, replicas=have, **loads), 30.0).desired["m", "slow"] == 1
    assert not planner.plan(seen(flows, replicas=have, **loads), 90.0).desired


def test_load_times_are_those_of_the_latest_replica() -> None:
    planner = Planner(inventory(load_s=300.0), Provisioning(boot_s=2.0))
    old, young = ready("m-0", since=0.0, load_s=60.0), ready("m-1", since=9.0, load_s=8.0)
    for replicas in ((old, young), (young, old)):
        planner.plan(seen(replicas=replicas), 10.0)
        assert planner.inventory.kinds["m", "slow"].load_s == 10.0


def test_a_kept_minimum_stays_without_any_call() -> None:
    planner = Planner(inventory(), Provisioning(default=Bounds(min_replicas=2), idle_s=1, cool_down_s=0))
    assert kinds(planner.plan(seen(), 0.0)) == ["start", "start"]
    assert not planner.plan(seen(replicas=stock(2, idle_since=0.0)), 100.0).steps


def test_nothing_changes_under_constant_load() -> None:
    draw = random.Random(7)
    planner, options = Planner(inventory(cards=50), Provisioning()), Provisioning()
    have: tuple[ReplicaNow, ...] = ()
    changes = []
    rate = ArrivalRate()
    for second in range(900):
        rate.observe(float(second), sum(draw.random() < 0.1 for _ in range(100)))
        if second % 5:
            continue
        plan = planner.plan(seen(flow(rate.now(second), trend=rate.trend(second)), replicas=have), float(second))
        count = sum(plan.desired.values())
        if count != len(have):
            changes.append((second, count))
            have = stock(count, since=float(second))
    settled = [change for change in changes if change[0] > 2 * options.patience_s()]  # the first seconds tell little
    assert not settled, changes


def test_the_last_card_is_handed_over_to_the_model_that_needs_it() -> None:
    planner = Planner(inventory(cards=1, models=("a", "b")), Provisioning(idle_s=5, cool_down_s=0))
    have = (ready("a-0", model="a", idle_since=0.0),)
    planner.plan(seen(flow(0.2, model="a"), replicas=have), 0.0)
    plan = planner.plan(seen(flow(1.0, model="b"), replicas=have), 100.0)
    assert [(s.kind, s.model, s.replica) for s in plan.steps] == [("swap", "b", "a-0")]


def test_while_a_card_is_free_nobody_waits_for_that_of_another_model() -> None:
    planner = Planner(inventory(cards=2, models=("a", "b")), Provisioning(idle_s=5, cool_down_s=0))
    have = (ready("a-0", model="a", idle_since=0.0),)
    planner.plan(seen(flow(0.2, model="a"), replicas=have), 0.0)
    plan = planner.plan(seen(flow(1.0, model="b"), replicas=have), 100.0)
    assert [(s.kind, s.model, s.replica) for s in plan.steps] == [("start", "b", ""), ("drain", "a", "a-0")]


def test_two_models_that_want_the_last_card_do_not_take_turns() -> None:
    planner = Planner(inventory(cards=1, models=("a", "b")), Provisioning(idle_s=5, cool_down_s=0))
    have: tuple[ReplicaNow, ...] = ()
    owners = []
    for second in range(200):
        plan = planner.plan(seen(flow(5.0, model="a"), flow(5.0, model="b"), replicas=have), float(second))
        for step in plan.steps:
            if step.kind == "start":
                have = (ready(f"{step.model}-0", model=step.model, since=float(second)),)
                owners.append(step.model)
            elif step.kind in ("drain", "swap"):
                have = (ready(have[0].name, model=have[0].model, state="draining"),)
            elif step.kind == "stop":
                have = ()
    assert len(owners) == 1


def test_a_mix_is_changed_without_a_gap() -> None:
    cards = inventory({"slow": 1.0, "fast": 4.0}, prices={"slow": 5.0, "fast": 1.0})
    planner = Planner(cards, Provisioning(idle_s=5, cool_down_s=0))
    have = (ready("m-0", running=1),)
    planner.plan(seen(flow(1.0), replicas=have), 0.0)
    plan = planner.plan(seen(flow(1.0), replicas=have), 50.0)
    assert kinds(plan) == ["start"]
    loading = (*have, ready("m-1", "fast", state="starting"))
    assert not planner.plan(seen(flow(1.0), replicas=loading), 90.0).steps
    both = (*have, ready("m-1", "fast", since=91.0))
    assert [(s.kind, s.replica) for s in planner.plan(seen(flow(1.0), replicas=both), 95.0).steps] == [("drain", "m-0")]


def test_a_backlog_is_worked_off_in_the_room_there_is_and_starts_replicas_only_beyond_it() -> None:
    planner = Planner(inventory(load_s=10.0), Provisioning())
    need = sum(planner.plan(seen(flow(10.0)), 0.0).desired.values())
    there = stock(need)
    stalled = ModelLoad(held=10 + 20)  # a stall of the machine, worked off by a fifth more than what comes
    assert not planner.plan(seen(flow(10.0), replicas=there, m=stalled), 1.0).steps
    flooded = planner.plan(seen(flow(10.0), replicas=there, m=ModelLoad(held=10 + 200)), 2.0)
    assert set(kinds(flooded)) == {"start"}
    assert "210 calls wait" in flooded.steps[0].reason


def test_equal_histories_give_equal_plans() -> None:
    def play() -> list[Plan]:
        planner = Planner(inventory({"slow": 1.0, "fast": 3.0}), Provisioning())
        return [planner.plan(Observation((flow(1.0 + t / 10),)), float(t)) for t in range(30)]

    assert play() == play()


def test_a_job_in_a_closed_loop_takes_what_is_there_and_starts_nothing() -> None:
    node = {"model": "m", "answers": True, "prompt": {"fixed": 200}, "output": {"fixed": 100}}
    hosting = {"slots": 8, "catalog": ["Llama-3.1-8B", "L40S"], "load_s": 5.0}
    scenario = Scenario.model_validate({
        "cards": {"L40S": {"count": 1, "most": 10}},
        "models": {"m": {"on": {"L40S": hosting}}},
        "workflows": {"job": {"nodes": {"answer": node}}},
        "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
        "warm_start": True,
    })  # fmt: skip
    controller = ProvisioningController(scenario, Provisioning(load_s=5.0))
    workload = Workload(scenario, 1)
    runs = (workload.run("job", f"r{i}", Arrival(i / 20)) for i in range(4000))  # more than one replica serves
    world = World(scenario, "slack", runs, 1, controller=controller)
    world.play(200.0)
    assert world.card_seconds["L40S"] == pytest.approx(world.now)
