"""Calls that come and wait, and the slots that they take."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.runtime import (
    AttemptEnded,
    Branched,
    CallDropped,
    CallRunnable,
    CallWithdrawn,
    FirstToken,
    Hold,
    ReplicaDraining,
    ReplicaGone,
    RunDropped,
    RunEnded,
)
from tests.runtime.builders import Driver, assigned, every_policy, plan, replica


@every_policy
def test_a_runnable_call_is_assigned_to_an_idle_replica(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    actions = d.start("x")
    assert assigned(actions) == [("x", "tcp://a", 1)]
    assert d.state("x") == "running"
    assert d.machine.held == 0


@every_policy
def test_a_call_beyond_the_slots_is_held_until_one_is_free(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    actions = d.start("x", "y")
    assert assigned(actions) == [("x", "tcp://a", 1)]
    assert isinstance(actions[-1], Hold)
    assert actions[-1].call_id == "y"
    assert d.machine.held == 1
    assert assigned(d.end("x")) == [("y", "tcp://a", 1)]
    assert d.machine.held == 0


@every_policy
def test_a_call_without_a_replica_is_held_until_one_is_ready(policy: str) -> None:
    d = Driver(policy)
    (hold,) = d.start("x")
    assert hold == Hold("x", "no replica of model 'small' is ready")
    assert assigned(d.ready(replica("big", "large"))) == []
    assert assigned(d.ready(replica("a"))) == [("x", "tcp://a", 1)]


@every_policy
def test_calls_that_wait_are_served_by_priority_then_in_turn(policy: str) -> None:
    d = Driver(policy)
    d.submit(plan("low"), plan("low2"), plan("high", priority=5))
    d.runnable("low", "low2", "high")
    d.ready(replica("a"))
    order = []
    while running := [c for c in ("low", "low2", "high") if d.state(c) == "running"]:
        order += running
        d.end(running[0])
    assert order == ["high", "low", "low2"]


@every_policy
def test_a_call_that_came_before_any_replica_does_not_say_so_once_there_is_one(policy: str) -> None:
    d = Driver(policy)
    d.submit(plan("first"), plan("second", priority=5), plan("third", priority=3))
    d.runnable("first", "second", "third")
    assert {d.call(name).reason for name in ("first", "second", "third")} >= {"no replica of model 'small' is ready"}
    d.ready(replica("a"))
    assert [name for name in ("first", "second", "third") if "is ready" in d.call(name).reason] == []


def test_every_hold_says_why() -> None:
    d = Driver("slack")
    d.ready(replica("a"))
    holds = [a for a in d.start("x", "y", "z") if isinstance(a, Hold)]
    assert [h.reason for h in holds] == ["all replicas are busy", "other calls of its model are served first"]


def test_the_engine_gets_the_priority_of_the_run_lower_first() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("x", priority=3))
    (assign,) = d.runnable("x")
    assert assign.priority == -3.0  # type: ignore[union-attr]


@every_policy
def test_a_call_reported_runnable_again_keeps_its_place(policy: str) -> None:
    d = Driver(policy)
    d.start("x", "y")
    d.runnable("x")
    d.ready(replica("a"))
    assert d.state("x") == "running"
    assert d.machine.held == 1


def test_messages_about_calls_nobody_knows_change_nothing() -> None:
    d = Driver()
    d.ready(replica("a"))
    events = (
        CallRunnable("nobody"),
        CallWithdrawn("nobody"),
        CallDropped("nobody"),
        FirstToken("nobody", 1, 0.1),
        AttemptEnded("nobody", 1, "finished"),
        Branched("nobody", "s", 0),
        RunEnded("nobody", "failed"),
        RunDropped("nobody"),
        ReplicaGone("tcp://nobody"),
        ReplicaDraining("tcp://nobody"),
    )
    assert d.tell(*events) == []
    assert "nobody" not in d.machine.runs.calls
    assert d.machine.report("nobody") is None


def test_an_event_of_another_kind_is_our_fault() -> None:
    with pytest.raises(AssertionError):
        Driver().machine.handle("surprise", 0.0)  # type: ignore[arg-type]


def test_policies_see_the_deadline_of_the_run_and_how_long_a_call_waits() -> None:
    d = Driver()
    d.tell(at=100.0)
    d.submit(plan("x", objective=Objective(e2e_s=5.0), priority=2))
    d.tell(CallRunnable("x"), at=101.0)
    view = d.machine.view(d.machine.runs.calls["x"])
    assert (view.deadline, view.runnable_at, view.priority) == (105.0, 101.0, 2)
    assert (view.prompt_tokens, view.output_tokens, view.attempt) == (10, 10.0, 1)
    assert not view.answers, "it is due with its end"
