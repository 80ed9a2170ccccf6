"""A replica whose engine has no room for any call until a time, as its server says, is given none until then."""

from __future__ import annotations

import pytest

from dask_fmware.runtime import ReplicaGone, RunDropped, Tick
from tests.runtime.builders import Driver, assigned, every_policy, replica


def shut(driver: Driver, call_id: str, for_s: float, attempt: int = 1) -> None:
    """An attempt ends as its server wants no calls for a while; its call comes back."""
    driver.end(call_id, "retry", attempt, error="CapacityError: wait", is_sound=True, shut_s=for_s)
    driver.runnable(call_id)


@every_policy
@pytest.mark.parametrize("slots", [1, 4])
def test_calls_wait_until_their_only_replica_opens(policy: str, slots: int) -> None:
    driver = Driver(policy)
    driver.ready(replica("x", slots=slots))
    driver.start("a")
    shut(driver, "a", 30.0)
    driver.now = 10.0
    driver.start("b")
    assert [driver.state(call_id) for call_id in "ab"] == ["held", "held"]
    assert driver.call("a").reason == "no replica of model 'small' is within its rate limit, for 20 s"
    assert driver.machine.wake_at == 30.0
    assert not driver.tell(Tick(), at=29.0)
    started = assigned(driver.tell(Tick(), at=30.0))
    assert [call_id for call_id, _, _ in started] == ["a", "b"][:slots]
    assert driver.machine.wake_at is None


@every_policy
def test_calls_go_to_other_replicas_meanwhile(policy: str) -> None:
    driver = Driver(policy)
    driver.ready(replica("x", slots=8))
    driver.start("a")
    driver.ready(replica("y", slots=8))
    shut(driver, "a", 30.0)
    driver.start(*"bcd")
    assert [driver.call(call_id).last.replica for call_id in "abcd"] == ["y"] * 4
    driver.now = 30.0
    driver.start(*"efgh")
    assert "x" in {driver.call(call_id).last.replica for call_id in "efgh"}


def test_who_waits_in_the_queue_of_a_replica_that_shuts_goes_elsewhere() -> None:
    driver = Driver("greedy")
    driver.ready(replica("x"))
    driver.start("a", "b")
    assert driver.state("b") == "queued"
    shut(driver, "a", 30.0)
    assert driver.state("b") == "held"
    driver.ready(replica("y"))
    assert driver.call("a").last.replica == "y"
    driver.end("a", attempt=2)
    assert driver.call("b").last.replica == "y"


def test_the_longest_time_counts_and_a_new_engine_knows_of_none() -> None:
    driver = Driver()
    driver.ready(replica("x", slots=2))
    driver.start("a", "b")
    shut(driver, "a", 30.0)
    shut(driver, "b", 20.0)
    assert driver.machine.wake_at == 30.0
    driver.tell(ReplicaGone("tcp://x", "its engine died"))
    driver.ready(replica("x", slots=2))
    assert [driver.state(call_id) for call_id in "ab"] == ["running", "running"]


def test_nobody_is_woken_for_whom_nobody_waits() -> None:
    driver = Driver()
    driver.ready(replica("x"))
    driver.start("a")
    shut(driver, "a", 30.0)
    driver.tell(RunDropped("a"))
    assert driver.machine.wake_at is None
    driver.now = 31.0
    assert assigned(driver.start("b")) == [("b", "tcp://x", 1)]


def test_tries_that_a_limit_ended_are_no_failures_and_make_no_suspect_of_a_call() -> None:
    """Nobody's engine has died: the other slots of its replica are not kept empty for its last attempt."""
    driver = Driver()
    driver.ready(replica("x", slots=3))
    driver.start("a")
    for attempt in range(1, 6):
        shut(driver, "a", 30.0, attempt)
        assert driver.state("a") == "held"
        driver.tell(Tick(), at=driver.now + 30.0)
    driver.start("b")
    assert [driver.state(call_id) for call_id in "ab"] == ["running", "running"]
    driver.end("b")
    for attempt in (6, 7, 8):
        assert driver.state("a") == "running"
        driver.end("a", "retry", attempt, error="EngineStalledError: no token")
        driver.runnable("a")
    assert driver.state("a") == "failed"
    assert "3 attempts failed" in driver.call("a").reason


@every_policy
def test_replicas_behind_one_limit_shut_one_after_the_other_and_their_call_waits(policy: str) -> None:
    driver = Driver(policy)
    for name in "xyz":
        driver.ready(replica(name))
    driver.start("a")
    for attempt in (1, 2, 3):
        shut(driver, "a", 300.0, attempt)
    assert driver.state("a") == "held"
    driver.tell(Tick(), at=300.0)
    assert driver.state("a") == "running"


def test_a_call_under_which_two_engines_died_is_alone_whatever_else_ended_it() -> None:
    driver = Driver()
    driver.ready(replica("x", slots=3))
    driver.start("a")
    shut(driver, "a", 30.0)
    driver.tell(Tick(), at=30.0)
    for _ in range(2):
        driver.tell(ReplicaGone("tcp://x", "its engine died"))
        driver.ready(replica("x", slots=3))
        driver.runnable("a")
    assert (driver.state("a"), driver.call("a").reason) == ("running", "alone: it has one attempt left")
