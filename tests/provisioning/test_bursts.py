"""Loads that have just begun or are soon over, of answers that last longer than both."""

from __future__ import annotations

from collections import Counter

from dask_fmware.provisioning import ModelLoad, Planner, ReplicaNow
from dask_fmware.simulation.arrivals import Arrival
from dask_fmware.simulation.provisioned import ProvisioningController
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from dask_fmware.spec.provisioning import Bounds, Provisioning
from tests.provisioning.builders import flow, inventory, seen, stock


def test_a_load_that_has_just_begun_lets_no_replica_go_that_it_will_need_when_it_is_full() -> None:
    begun, there = flow(10.0, output=3000), ModelLoad(running=8, held=12)
    options = Provisioning(idle_s=10, cool_down_s=0)
    lasted = seen(begun, replicas=stock(1), m=ModelLoad(running=900))
    full = sum(Planner(inventory(load_s=5.0, cards=500), options).plan(lasted, 0.0).desired.values())
    planner = Planner(inventory(load_s=5.0, cards=500), options)
    plans = [planner.plan(seen(begun, replicas=stock(full), m=there), float(now)) for now in range(60)]
    assert "as full as it will be" in plans[-1].reasons["m"]
    assert not any(plan.steps for plan in plans)


def test_long_answers_start_as_many_replicas_as_will_have_calls_when_they_have_loaded() -> None:
    burst, there = flow(10.0, output=3000), ModelLoad(running=8, held=12)
    planner = Planner(inventory(load_s=5.0, cards=500), Provisioning())
    young = planner.plan(seen(burst, replicas=stock(1, running=8), m=there), 0.0)
    assert 20 + 10 * 5 <= 8 * sum(young.desired.values()) <= 2 * (20 + 10 * 7)
    assert "as full as it will be" in young.reasons["m"]
    lasted = ModelLoad(running=900)
    old = planner.plan(seen(burst, replicas=stock(113, running=8), m=lasted), 1.0)
    assert sum(old.desired.values()) > 3 * sum(young.desired.values())


def test_after_bursts_that_were_over_before_a_replica_had_loaded_few_are_started() -> None:
    planner = Planner(inventory(load_s=5.0, cards=50), Provisioning(idle_s=20, cool_down_s=0))
    starts: Counter[int] = Counter()
    have: tuple[ReplicaNow, ...] = stock(1)
    for second in range(1200):
        is_burst = second % 200 < 3
        there = ModelLoad(running=2 if is_burst else 0, last_call=float(second))
        plan = planner.plan(seen(flow(10.0 if is_burst else 0.1), replicas=have, m=there), float(second))
        starts[second // 200] += sum(step.kind == "start" for step in plan.steps)
        have = stock(sum(plan.desired.values()))
    assert starts[1] > 2, starts
    assert all(starts[burst] <= 1 for burst in range(2, 6)), starts


def test_the_bursts_of_long_answers_of_a_simulated_hour_take_a_few_cards() -> None:
    hosting = {"slots": 32, "kv_tokens": 200_000, "catalog": ["Llama-3.1-8B", "L40S"], "load_s": 5.0}
    node = {"model": "m", "answers": True, "prompt": {"fixed": 1250}, "output": {"fixed": 3000}}
    scenario = Scenario.model_validate({
        "cards": {"L40S": {"count": 1, "most": 120}},
        "models": {"m": {"on": {"L40S": hosting}}},
        "workflows": {"chat": {"slo": {"ttft_s": 5.0}, "nodes": {"answer": node}}},
        "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
        "warm_start": True,
    })  # fmt: skip
    options = Provisioning(load_s=5.0, idle_s=20.0, default=Bounds(min_replicas=1))
    workload = Workload(scenario, 1)
    arrivals = [Arrival(burst + i / 10) for burst in range(0, 1000, 200) for i in range(20)]
    runs = (workload.run("chat", f"r{i}", arrival) for i, arrival in enumerate(arrivals))
    controller = ProvisioningController(scenario, options)
    world = World(scenario, "greedy", runs, 1, controller=controller)
    outcomes = world.play()
    assert all(outcome.met for outcome in outcomes)
    assert world.card_seconds["L40S"] / world.end_s < 3
