"""What a policy that plans is shown of the runs to come: the most urgent, none that ended, no replica that failed."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.runtime import Assign, CallDropped, Fail, RunDropped, RunEnded, Tick
from tests.runtime.builders import Driver, assigned, node, plan, replica

ANSWER_S = 0.2  # of a call


@pytest.mark.parametrize("policy", ["slack", "greedy", "least_outstanding"])
@pytest.mark.parametrize("slots", [1, 4])
def test_a_call_that_failed_on_a_replica_is_tried_on_another(policy: str, slots: int) -> None:
    d = Driver(policy)
    d.ready(replica("a", slots=slots), replica("b", slots=slots))
    d.submit(plan("r", [node("r", answers=True)], objective=Objective(ttft_s=60.0)))
    ((_, first, _),) = assigned(d.runnable("r"))
    d.now += 1.0
    d.end("r", "retry", error="EngineStalledError: silent")
    ((_, second, _),) = assigned(d.runnable("r"))
    assert {first, second} == {"tcp://a", "tcp://b"}


def test_a_call_that_failed_on_the_only_replica_is_tried_there_again() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1))
    d.submit(plan("r", [node("r", answers=True)], objective=Objective(ttft_s=60.0)))
    d.runnable("r")
    d.now += 1.0
    d.end("r", "retry", error="EngineStalledError: silent")
    assert assigned(d.runnable("r")) == [("r", "tcp://a", 2)]


@pytest.mark.parametrize("priority", [0, 100])
def test_an_urgent_run_comes_before_any_number_of_unhurried_ones_under_way(priority: int) -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1))
    runs = [f"r{n}" for n in range(20)]
    for run in runs:
        nodes = [node(f"{run}/x"), node(f"{run}/y", after=("x",), answers=True)]
        d.submit(plan(run, nodes, objective=Objective(e2e_s=3600.0)))
        d.runnable(f"{run}/x")
        while d.call(f"{run}/x").state == "held":  # the card is kept for what is expected of the others
            assert d.machine.wake_at is not None
            d.tell(Tick(), at=max(d.now, d.machine.wake_at) + 1e-6)
        d.now += ANSWER_S
        d.end(f"{run}/x", prompt_tokens=10, output_tokens=10)
    actions = [action for run in runs for action in d.runnable(f"{run}/y")]
    ((busy, *_),) = assigned(actions)
    objective = Objective(ttft_s=1.0, on_miss="reject")
    d.submit(plan("urgent", [node("urgent", answers=True)], objective=objective, priority=priority))
    assert not any(isinstance(action, Assign | Fail) for action in d.runnable("urgent"))
    d.now += ANSWER_S
    assert [call for call, *_ in assigned(d.end(busy, prompt_tokens=10, output_tokens=10))] == ["urgent"]


def test_of_runs_that_have_not_begun_higher_priorities_come_first() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1))
    for n in range(20):
        d.submit(plan(f"r{n}", [node(f"r{n}", answers=True)], objective=Objective(e2e_s=10.0)))
    d.submit(plan("high", [node("high", answers=True)], objective=Objective(e2e_s=20.0), priority=1))
    for n in range(20):
        d.runnable(f"r{n}")
    d.runnable("high")
    jobs = d.machine.to_come.jobs(d.now, 12)
    assert "high" in {job.run_id for job in jobs}
    assert len(jobs) == 12
    assert [job.begun for job in jobs] == sorted((job.begun for job in jobs), reverse=True)


def test_a_run_that_has_ended_is_not_to_come_if_its_result_is_made_once_more() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1))
    d.submit(plan("r", [node("r", answers=True)], objective=Objective(e2e_s=3600.0)))
    for attempt in (1, 2):  # the worker that held the result of the first is lost
        assert assigned(d.runnable("r")) == [("r", "tcp://a", attempt)]
        assert d.machine.to_come.jobs(d.now, 12) == []
        d.now += ANSWER_S
        d.end("r", attempt=attempt, prompt_tokens=5, output_tokens=5)
        d.tell(RunEnded("r", "finished"))
    d.tell(RunDropped("r"))
    assert len(d.machine.to_come) == 0


def test_a_map_that_failed_leaves_nothing_to_come_while_its_other_bodies_go_on() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=4))
    nodes = [node("r/m", None), node("r/s", after=("m",), answers=True)]
    d.submit(plan("r", nodes, objective=Objective(ttft_s=60.0)))
    d.submit(*(body(f"b{n}", n) for n in range(2)))
    d.runnable("b0/x", "b1/x")
    d.now += ANSWER_S
    d.end("b0/x", "failed")
    d.tell(RunEnded("r", "failed", "x"))
    d.end("b1/x")
    d.runnable("b1/y")  # before its worker has released the other body
    d.tell(CallDropped("b1/y"), RunDropped("b0"), RunDropped("b1"), RunDropped("r"))
    assert len(d.machine.to_come) == 0


def body(run_id: str, number: int) -> RunPlan:
    """One item of map 'm' of run 'r': two calls."""
    first = PlannedNode(f"m[{number}].x", f"{run_id}/x", (), "small", 5)
    second = PlannedNode(f"m[{number}].y", f"{run_id}/y", (first.name,), "small", 5)
    return RunPlan(run_id, "rag", (first, second), second.key, part_of="r")


def test_of_a_map_with_many_items_a_plan_sees_a_few_calls_and_knows_how_long_the_others_take() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1), replica("b", slots=1))
    nodes = [node("r/m", None), node("r/s", after=("m",), answers=True)]
    d.submit(plan("r", nodes, objective=Objective(e2e_s=100.0)))
    items = [
        RunPlan(f"i{n}", "rag", (PlannedNode(f"m[{n}].x", f"i{n}/x", (), "small", 5),), f"i{n}/x", part_of="r")
        for n in range(102)
    ]
    d.submit(*items)
    d.runnable(*(item.output for item in items))
    (job,) = d.machine.to_come.jobs(d.now, 12)
    (step, *_) = job.steps
    assert len(step.calls) == 16
    assert all(call.call_id is not None for call in step.calls)
    call_s, left = d.machine.views.execution("small", step.calls[0].prompt_tokens, step.calls[0].output_tokens)[1], 100
    after_s = d.machine.view(d.machine.runs.calls["i5/x"]).after_s
    assert step.due == pytest.approx(100.0 - after_s - (left - 16) * call_s / 2)


def test_what_follows_a_call_in_the_body_of_its_map_is_counted() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=4))
    nodes = [node("r/m", None), node("r/s", after=("m",), answers=True)]
    d.submit(plan("r", nodes, objective=Objective(ttft_s=60.0)), body("b0", 0))
    first, second = (d.machine.view(d.machine.runs.calls[f"b0/{name}"]) for name in "xy")
    assert first.after_s == pytest.approx(second.after_s + second.own_s)
