"""What a policy that plans is shown of the runs to come: the most urgent, none that ended, no replica that failed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.runtime import Assign, CallDropped, Fail, RunDropped, RunEnded, Tick
from dask_fmware.runtime.foresight.likely import job_call
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


def wide(driver: Driver, run_id: str, count: int, seconds: float) -> list[str]:
    """Submit a run that maps over so many items, a call each, and is due after so many seconds; return these calls."""
    nodes = [node(f"{run_id}/m", None), node(f"{run_id}/s", after=("m",), answers=True)]
    driver.submit(plan(run_id, nodes, objective=Objective(e2e_s=seconds)))
    calls = [PlannedNode(f"m[{n}].x", f"{run_id}/m{n}", (), "small", 5) for n in range(count)]
    driver.submit(*(RunPlan(f"{one.key}/body", "rag", (one,), one.key, part_of=run_id) for one in calls))
    return [one.key for one in calls]


def test_of_a_map_with_many_items_a_plan_sees_a_few_calls_and_knows_how_long_the_others_take() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1), replica("b", slots=1))
    d.runnable(*wide(d, "r", 102, 100.0))
    (job,) = d.machine.to_come.jobs(d.now, 12)
    (step, *_) = job.steps
    assert len(step.calls) == 16
    assert all(call.call_id is not None for call in step.calls)
    call_s, left = d.machine.views.execution("small", step.calls[0].prompt_tokens, step.calls[0].output_tokens)[1], 100
    after_s = d.machine.view(d.machine.runs.calls["r/m5"]).after_s
    assert step.due == pytest.approx(100.0 - after_s - (left - 16) * call_s / 2)


def counted(what: Callable[[], object]) -> tuple[int, int]:
    """Return how many functions something calls, and how many calls to start it has a plan see."""
    called = seen = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal called, seen
        called += event in ("call", "c_call")
        seen += event == "call" and frame.f_code is job_call.__code__

    sys.setprofile(profile)
    try:
        what()
    finally:
        sys.setprofile(None)
    return called, seen


def cost_of(what: str, count: int, seconds: float) -> tuple[int, int]:
    """What an event costs beside a map of so many items on two cards, as `counted`."""
    d = Driver("slack")
    *others, last = wide(d, "r", count, seconds)
    d.runnable(*others)  # before there are cards to plan for
    d.ready(replica("a", slots=1), replica("b", slots=1))
    running = next(one for one in others if d.state(one) == "running")
    d.now += ANSWER_S
    return counted(lambda: d.runnable(last) if what == "one more comes" else d.end(running))


@pytest.mark.parametrize("seconds", [10_000.0, 5.0])  # time for all of them, and for few
@pytest.mark.parametrize("what", ["one more comes", "one ends"])
def test_an_event_costs_the_same_beside_a_map_of_ten_times_as_many_items(what: str, seconds: float) -> None:
    (few, few_seen), (many, many_seen) = (cost_of(what, count, seconds) for count in (200, 2000))
    assert many < 1.2 * few
    assert few_seen == many_seen <= 16 + 1


@pytest.mark.parametrize("count", [10, 40])
def test_of_a_map_that_may_come_a_plan_sees_a_few_calls_that_take_as_long_as_all(count: int) -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=1), replica("b", slots=1))
    for run in ("r0", "r1", "r2"):
        calls = wide(d, run, count, 100.0)
        d.runnable(*calls)
        while running := [call for call in calls if d.state(call) == "running"]:
            d.now += ANSWER_S
            d.end(running[0], prompt_tokens=10, output_tokens=5)
        assert {d.state(call) for call in calls} == {"finished"}
        d.runnable(f"{run}/s")
        d.now += ANSWER_S
        d.end(f"{run}/s", prompt_tokens=10, output_tokens=10)
        d.tell(RunEnded(run, "finished"))
        d.now += 1.0
    for job in d.machine.to_come.expected(d.now):
        items, answer = job.steps
        assert len(items.calls) == min(count, 16)
        assert sum(call.times for call in items.calls) == pytest.approx(count)
        assert [call.times for call in answer.calls] == [1.0]


def test_what_follows_a_call_in_the_body_of_its_map_is_counted() -> None:
    d = Driver("slack")
    d.ready(replica("a", slots=4))
    nodes = [node("r/m", None), node("r/s", after=("m",), answers=True)]
    d.submit(plan("r", nodes, objective=Objective(ttft_s=60.0)), body("b0", 0))
    first, second = (d.machine.view(d.machine.runs.calls[f"b0/{name}"]) for name in "xy")
    assert first.after_s == pytest.approx(second.after_s + second.own_s)
