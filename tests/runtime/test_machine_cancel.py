"""Calls and runs that nobody wants any more."""

from __future__ import annotations

from dask_fmware.runtime import CallDropped, CallWithdrawn, RunDropped, RunEnded
from tests.runtime.builders import Driver, assigned, every_policy, node, plan, replica


@every_policy
def test_a_dropped_call_is_not_assigned_any_more(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y", "z")
    assert d.tell(CallDropped("y")) == []
    assert d.state("y") == "cancelled"
    assert assigned(d.end("x")) == [("z", "tcp://a", 1)]


@every_policy
def test_a_withdrawn_call_may_become_runnable_again(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    d.tell(CallWithdrawn("y"))
    assert d.state("y") == "planned"
    assert d.machine.held == 0
    assert d.end("x") == []
    assert assigned(d.runnable("y")) == [("y", "tcp://a", 1)]


@every_policy
def test_the_slot_of_a_cancelled_attempt_is_free_only_when_its_worker_says_so(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    assert d.tell(CallDropped("x"), RunEnded("x", "cancelled"), RunDropped("x")) == []
    assert d.machine.held == 1
    assert assigned(d.end("x", "aborted")) == [("y", "tcp://a", 1)]


@every_policy
def test_a_run_submitted_again_does_not_take_over_the_slot_of_its_aborted_attempt(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a", slots=2))
    d.start("x")
    d.tell(RunDropped("x"))
    assert assigned(d.start("x")) == [("x", "tcp://a", 2)]
    assert d.machine.fleet.get("tcp://a").free_slots == 0  # type: ignore[union-attr]
    d.end("x", "aborted", 1)
    assert d.state("x") == "running"
    d.end("x", "finished", 2)
    assert d.state("x") == "finished"
    assert d.machine.fleet.get("tcp://a").free_slots == 2  # type: ignore[union-attr]


@every_policy
def test_a_dropped_run_leaves_nothing_behind(policy: str) -> None:
    d = Driver(policy)
    d.start("x", "y")
    d.tell(RunDropped("x"), RunDropped("y"))
    assert d.machine.held == 0
    assert not d.machine.waiting.queues
    assert "x" not in d.machine.runs.calls
    assert d.ready(replica("a")) == []


def test_dropping_a_run_with_several_queued_calls_serves_others() -> None:
    d = Driver("greedy")
    d.ready(replica("a", slots=2))
    d.start("busy1", "busy2")
    d.submit(plan("r", [node("r/a"), node("r/b")]))
    d.runnable("r/a", "r/b")
    d.start("other")
    assert d.tell(RunDropped("r")) == []
    assert d.machine.held == 1
    assert assigned(d.end("busy1")) == [("other", "tcp://a", 1)]


def test_a_run_that_is_dropped_before_its_end_was_cancelled() -> None:
    d = Driver()
    d.start("x")
    d.tell(RunDropped("x"))
    report = d.machine.report("x")
    assert report is not None
    assert (report.state, report.reason) == ("cancelled", "nobody waits for its result")
    assert [c.state for c in report.calls] == ["cancelled"]


def test_a_body_that_is_dropped_does_not_end_its_run() -> None:
    d = Driver()
    d.start("r")
    d.submit(plan("r[0]", [node("r[0]/x")], part_of="r"))
    d.runnable("r[0]/x")
    d.tell(RunEnded("r[0]", "failed"), RunDropped("r[0]"))
    report = d.machine.report("r")
    assert report is not None
    assert report.state == "running"
    assert [c.state for c in report.calls] == ["held", "cancelled"]


def test_calls_that_come_and_go_behind_one_that_stays_are_forgotten() -> None:
    d = Driver()
    d.start("stays")
    for i in range(500):
        d.start(str(i))
        d.tell(RunDropped(str(i)))
    assert d.machine.held == 1
    assert len(d.machine.waiting.queues["small"]) == 1
