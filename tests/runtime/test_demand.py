from __future__ import annotations

import random
from math import inf

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.model.report import RunState
from dask_fmware.runtime import Refuse, ReplicaGone, ReplicaReady, RunDropped, RunEnded, RunRetried
from dask_fmware.runtime.demand import Demand
from tests.runtime.builders import Driver, node, plan, replica

SOON = Objective(ttft_s=2.0)


def test_of_a_lost_replica_nothing_is_kept() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.tell(ReplicaReady(replica("a")))
    assert demand.idle_since("tcp://a", running=1, since=0.0, now=5.0) is None
    assert demand.idle_since("tcp://a", running=0, since=0.0, now=9.0) == 5.0
    driver.tell(ReplicaGone("tcp://a"), at=10.0)
    assert demand.idle_since("tcp://a", running=0, since=2.0, now=12.0) == 2.0


def test_a_model_had_its_last_call_when_that_ended() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.ready(replica("a"))
    driver.submit(plan("r", [node("r/answer", answers=True)]))
    driver.runnable("r/answer")
    driver.now = 70.0
    assert demand.models(70.0)["small"].running == 1
    driver.end("r/answer")
    assert demand.models(80.0)["small"].last_call == 70.0


def test_lengths_are_those_of_many_calls_and_before_any_has_ended_what_the_plan_says() -> None:
    driver, draw = Driver(), random.Random(1)
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.ready(replica("a"))
    found = []
    for i in range(900):
        driver.now, call = float(i), f"r{i}/answer"
        driver.submit(plan(f"r{i}", [node(call, answers=True)], objective=SOON))
        found.append(demand.workflows(driver.now)[0].nodes[0].prompt_tokens)
        driver.runnable(call)
        driver.end(call, prompt_tokens=round(draw.uniform(1, 200 if i < 600 else 600)), output_tokens=10)
        driver.tell(RunEnded(f"r{i}", "finished"))
    assert found[0] == 10  # of 40 bytes
    assert 90 < min(found[300:600]) < max(found[300:600]) < 110
    assert 270 < found[-1] < 330


def test_a_workflow_has_the_objectives_of_its_first_token_and_of_its_end() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    expected = {
        Objective(ttft_s=2, e2e_s=9): (2, 9),
        Objective(ttft_s=2): (2, inf),
        Objective(e2e_s=9): (9, inf),
        Objective(ttft_s=2, e2e_s=900, finish_by=100.0): (2, 100),
        Objective(finish_by=300.0): (300, inf),
    }
    for number, (objective, bounds) in enumerate(expected.items()):
        driver.submit(plan(f"r{number}", [node(f"r{number}/answer", answers=True)], objective=objective))
        flow = demand.workflows(0.0)[-1]
        assert (flow.slo_s, flow.end_s) == bounds
        assert flow.nodes[0].answers is (objective.ttft_s is not None)


def test_rows_of_a_job_change_neither_the_rate_nor_the_objective_of_urgent_runs() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.submit(plan("urgent", [node("urgent/answer", answers=True)], objective=SOON))
    (alone,) = demand.workflows(0.0)
    driver.submit(plan("row", [node("row/answer", answers=True)], objective=Objective(e2e_s=3000.0)))
    for n in range(300):
        driver.submit(plan(f"r{n}", [node(f"r{n}/answer", answers=True)]))
        driver.runnable(f"r{n}/answer")
    urgent, row = demand.workflows(0.0)
    assert urgent == alone
    assert (row.slo_s, row.rate) == (3000.0, alone.rate)
    assert row.name != urgent.name
    driver.runnable("urgent/answer")
    load = demand.models(0.0)["small"]
    assert (load.held, load.held_urgent) == (301, 1)
    driver.ready(replica("a", slots=301))
    load = demand.models(0.0)["small"]
    assert (load.running, load.running_urgent) == (301, 1)


def test_each_kind_of_objective_has_the_lengths_of_its_own_calls() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.ready(replica("a"))
    for i in range(600):
        is_row, call = i % 3 > 0, f"r{i}/answer"
        driver.now = float(i)
        objective = Objective(e2e_s=3000.0 - i) if is_row else SOON
        driver.submit(plan(f"r{i}", [node(call, answers=True)], objective=objective))
        driver.runnable(call)
        driver.end(call, prompt_tokens=1000 if is_row else 100, output_tokens=10)
        driver.tell(RunEnded(f"r{i}", "finished"))
    urgent, rows = (flow.nodes[0].prompt_tokens for flow in demand.workflows(600.0))
    assert 100 <= urgent < 200
    assert 900 < rows <= 1000


def test_runs_that_no_replica_can_serve_are_not_asked_for_and_those_for_which_there_is_no_room_are() -> None:
    driver = Driver(max_held=1)
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    for n in range(100):
        (refused,) = driver.submit(plan(f"long{n}", [node(f"long{n}/answer", prompt_bytes=8000)]))
        assert isinstance(refused, Refuse)
        driver.tell(RunEnded(f"long{n}", "failed"), RunDropped(f"long{n}"), at=driver.now + 0.05)
    assert demand.workflows(driver.now) == ()
    driver.submit(plan("waits", [node("waits/answer", answers=True)], objective=SOON))
    driver.runnable("waits/answer")
    (before,) = demand.workflows(driver.now)
    (refused,) = driver.submit(plan("more", [node("more/answer", answers=True)], objective=SOON))
    assert isinstance(refused, Refuse)
    driver.submit(plan("long", [node("long/answer", prompt_bytes=8000)], objective=SOON))
    (after,) = demand.workflows(driver.now)
    assert after.rate == 2 * before.rate > 0.0
    assert after.nodes == before.nodes


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_the_end_of_a_run_counts_once_however_often_its_result_is_made_again(state: RunState) -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.ready(replica("a"))
    driver.submit(plan("r", objective=Objective(e2e_s=5.0)))
    for attempt in range(1, 4):
        driver.runnable("r")
        driver.end("r", attempt=attempt)
        driver.tell(RunEnded("r", state))
        assert demand.models(driver.now)["small"].ended == 1
        assert demand._workflows["rag"]._runs == (1 if state == "finished" else 0)
    driver.tell(RunRetried("r"), RunEnded("r", "failed"))
    assert demand.models(driver.now)["small"].ended == (2 if state == "failed" else 1)
    driver.tell(RunDropped("r"))
    assert not demand._ended


def test_a_run_that_is_retried_has_not_arrived_again_and_its_bodies_count_once() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.ready(replica("a"))
    driver.submit(plan("r", [node("r/map", None)]))
    rate = demand.workflows(driver.now)[0].rate
    for again in range(2):
        body = f"r[{again}]"
        driver.submit(plan(body, [node(f"{body}/map[0].each")], part_of="r"))
        driver.runnable(f"{body}/map[0].each")
        driver.end(f"{body}/map[0].each")
        driver.tell(RunDropped(body))
        if not again:
            driver.tell(RunEnded("r", "failed", "it broke"), RunRetried("r"))
    driver.tell(RunEnded("r", "finished"))
    [flow] = demand.workflows(driver.now)
    assert flow.rate == rate
    assert [round(found.calls, 6) for found in flow.nodes if found.model] == [round(1 / 6, 6)]
    assert driver.machine.knowledge.nodes.of("rag", "map").rounds.value == 1.0


def test_items_of_a_map_within_a_map_are_counted_and_do_not_follow_one_another() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.ready(replica("a", slots=12))
    for run in range(95):
        driver.submit(plan(f"r{run}", [node(f"r{run}/m", None)]))
        for n in range(3):
            driver.submit(plan(f"r{run}[{n}]", [node(f"r{run}[{n}]/m[{n}].inner", None)], part_of=f"r{run}"))
        calls = [node(f"r{run}[{n}][{i}]/m[{n}].inner[{i}].ask") for n in range(3) for i in range(4)]
        driver.submit(*[plan(call.key.partition("/")[0], [call], part_of=f"r{run}") for call in calls])
        for call in calls:
            driver.runnable(call.key)
            driver.end(call.key)
        driver.tell(RunEnded(f"r{run}", "finished"), RunDropped(f"r{run}"))
    [flow] = demand.workflows(driver.now)
    [asked] = [found for found in flow.nodes if found.model]
    assert (asked.name, asked.in_turn) == ("m.inner.ask", 1.0)
    assert asked.calls == pytest.approx(12 * 95 / 100)
