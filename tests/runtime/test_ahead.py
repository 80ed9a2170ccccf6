"""Calls that are bound one ahead of attempts that are about to end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dask_fmware.runtime import AttemptEnded, CallRunnable, ReplicaGone, Tick
from dask_fmware.runtime.replicas.ahead import Ahead
from dask_fmware.runtime.replicas.slots import ReplicaState, Stay
from tests.runtime.builders import Driver, assigned, replica

WAY_S = 0.02
CALL_S = 0.2  # of `builders.LATENCY` and `builders.plan`


def taught(
    *replicas: object, way_s: float = WAY_S, errors_s: tuple[float, ...] = (), policy: str = "greedy", **options: object
) -> Driver:
    """A machine that has seen calls end: each took `CALL_S` in its engine, and `way_s` to it and back."""
    driver = Driver(policy, **options)
    driver.ready(*replicas)  # type: ignore[arg-type]
    for number, error_s in enumerate(errors_s or (0.0,) * 10):
        began = 10.0 * number
        driver.now = began
        driver.start(f"past{number}/x")
        spent_s = CALL_S + error_s
        driver.now = began + spent_s + way_s
        driver.end(f"past{number}/x", prompt_tokens=10, output_tokens=9, latency_s=spent_s)
    driver.now = 1000.0
    return driver


def test_a_call_is_bound_a_way_before_the_one_before_it_ends() -> None:
    driver = taught(replica("a"))
    driver.start("a/x", "b/x")
    assert driver.state("b/x") == "queued"
    end = 1000.0 + WAY_S + CALL_S  # as the scheduler will hear of it
    assert driver.machine.wake_at == pytest.approx(end - WAY_S)
    [assign] = driver.tell(Tick(), at=end - WAY_S)
    assert (assign.call_id, assign.replica_id) == ("b/x", "tcp://a")  # type: ignore[union-attr]
    assert assign.wait_s == pytest.approx(WAY_S + 20 * WAY_S)  # type: ignore[union-attr]
    driver.start("c/x")
    assert driver.state("c/x") == "queued", "one for each attempt that ends, and no more"


def test_its_time_counts_from_when_it_has_a_slot() -> None:
    driver = taught(replica("a"))
    driver.start("a/x", "b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    driver.now = 1000.5
    driver.end("a/x", prompt_tokens=10, output_tokens=9, latency_s=CALL_S + 0.28)
    assert driver.call("b/x").last.started_at == pytest.approx(0.5)
    driver.now = 1000.7
    driver.end("b/x", prompt_tokens=10, output_tokens=9, latency_s=CALL_S, waited_s=0.28)
    assert driver.machine.fleet.ahead.way_s(("small",), 1.0) == pytest.approx(WAY_S), "the wait is no part of the way"


def test_a_slot_that_it_had_before_the_machine_knew_counts_too() -> None:
    driver = taught(replica("a"))
    driver.start("a/x", "b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    driver.now = 1000.5
    driver.end("a/x", prompt_tokens=10, output_tokens=9, latency_s=CALL_S)  # told late
    driver.now = 1000.6
    driver.end("b/x", prompt_tokens=10, output_tokens=9, latency_s=CALL_S)
    assert driver.call("b/x").last.started_at == pytest.approx(0.6 - CALL_S)


def test_an_arrival_takes_a_slot_that_is_about_to_be_free() -> None:
    driver = taught(replica("a"))
    driver.start("a/x")
    driver.now = 1000.0 + CALL_S + 0.001
    assert assigned(driver.start("b/x")) == [("b/x", "tcp://a", 1)]


def test_policies_see_when_it_will_be_free() -> None:
    driver = taught(replica("a"))
    driver.start("a/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    [view] = driver.machine.fleet.views("small")
    assert view.has_room
    assert view.slot_free_at == pytest.approx(1000.0 + CALL_S + WAY_S)


@pytest.mark.parametrize("policy", ["slack", "greedy", "least_outstanding"])
def test_attempts_that_are_about_to_end_are_work_all_the_same(policy: str) -> None:
    """Calls that take less than the way are about to end from the start: all of them went to the first replica."""
    driver = taught(replica("a", slots=4), replica("b", slots=4), policy=policy)
    first = assigned(driver.start("a/x"))
    driver.tell(Tick(), at=1000.0 + CALL_S + 0.001)
    second = assigned(driver.start("b/x"))
    assert {where for _, where, _ in first + second} == {"tcp://a", "tcp://b"}
    [idle] = assigned(driver.start("c/x"))
    assert idle[1] == first[0][1], "one that is about to end leaves sooner"


def test_where_all_are_busy_the_next_call_goes_to_what_is_about_to_end() -> None:
    driver = taught(replica("a"), replica("b"), policy="least_outstanding")
    driver.start("a/x")
    driver.now = 1000.0 + CALL_S / 2
    driver.start("b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S + 0.001)
    assert assigned(driver.start("c/x")) == [("c/x", "tcp://a", 1)]


@pytest.mark.parametrize(
    ("way_s", "errors_s"),
    [
        (0.0, ()),  # nothing to gain
        (WAY_S, (0.0, 0.1, -0.1, 0.15, -0.05, 0.08, -0.12, 0.0, 0.1, -0.1)),  # nobody knows when it ends
    ],
)
def test_without_a_way_or_a_known_end_nothing_is_ahead(way_s: float, errors_s: tuple[float, ...]) -> None:
    driver = taught(replica("a"), way_s=way_s, errors_s=errors_s)
    driver.start("a/x", "b/x")
    assert driver.machine.wake_at is None


def test_small_errors_of_ends_do_no_harm() -> None:
    driver = taught(replica("a"), errors_s=(0.0, 0.02, -0.02, 0.01, -0.01, 0.0, 0.02, -0.02, 0.01, -0.01))
    driver.start("a/x", "b/x")
    assert driver.machine.wake_at is not None


def test_a_call_that_waited_in_vain_waits_centrally_for_a_slot_that_is_free() -> None:
    driver = taught(replica("a"), max_attempts=1)
    driver.start("a/x", "b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    driver.now = 1001.0
    assert not driver.end("b/x", "undelivered")
    assert not assigned(driver.runnable("b/x"))
    assert driver.state("b/x") == "queued"
    assert driver.machine.wake_at is None, "the attempt that did not end is not counted on any more"
    driver.now = 1002.0
    actions = driver.end("a/x", prompt_tokens=10, output_tokens=9)
    assert assigned(actions) == [("b/x", "tcp://a", 2)], "it was no try"


def test_it_is_no_try_if_the_replica_dies_first_but_only_once() -> None:
    driver = taught(replica("a"), max_attempts=2)
    driver.start("a/x", "b/x")
    for turn in (1, 2):
        driver.tell(Tick(), at=driver.machine.wake_at)
        assert driver.call("b/x").last.attempt == turn
        driver.tell(ReplicaGone("tcp://a"))
        driver.tell(CallRunnable("a/x"), CallRunnable("b/x"))
        tries = {call: driver.machine.runs.calls[call].tries for call in ("a/x", "b/x") if turn == 1}
        assert tries in ({"a/x": 1, "b/x": 0}, {})
        driver.ready(replica("a"))
    assert driver.state("a/x") == "failed"
    assert driver.state("b/x") == "running"
    driver.tell(ReplicaGone("tcp://a"), CallRunnable("b/x"))
    assert driver.state("b/x") == "failed"


def test_it_is_no_try_either_where_it_waited_for_a_slot_of_its_card() -> None:
    driver = taught(replace(replica("a", slots=4), card_slots=1))
    driver.start("a/x", "b/x")
    [ahead] = driver.tell(Tick(), at=driver.machine.wake_at)
    assert ahead.call_id == "b/x"  # type: ignore[union-attr]
    driver.tell(ReplicaGone("tcp://a"))
    calls = [driver.machine.runs.calls[call_id] for call_id in ("a/x", "b/x")]
    assert [(call.tries, call.spared, call.avoid) for call in calls] == [(1, False, {"tcp://a"}), (0, True, set())]


def test_an_attempt_that_is_cancelled_lets_the_next_one_begin() -> None:
    driver = taught(replica("a"))
    driver.start("a/x", "b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    driver.now = 1000.21
    driver.end("a/x", "aborted")
    assert driver.call("b/x").last.started_at == pytest.approx(0.21)


def test_one_call_is_ahead_on_a_card_that_replicas_share() -> None:
    driver = taught(*(replace(replica(name, card="host/0"), card_slots=1) for name in "ab"))
    driver.start("a/x", "b/x", "c/x")
    [first] = driver.tell(Tick(), at=driver.machine.wake_at)
    assert first.call_id == "b/x"  # type: ignore[union-attr]
    driver.tell(Tick(), at=driver.now + 0.01)
    assert driver.state("c/x") in ("held", "queued")


def test_the_figures_forget() -> None:
    ahead, stay = Ahead(), Stay(1.0, kind=("small", "cpu", "rag", "x"))
    stay.began_at = 0.0
    for way_s in (5.0, 0.1):
        for _ in range(50):
            ahead.ended(stay, latency_s=1.0, waited_s=0.0, now=1.0 + way_s)
    assert ahead.way_s(stay.kind) == pytest.approx(0.1)
    assert ahead.way_s(("large",)) == 0.0


def test_what_was_said_of_an_attempt_before_is_not_said_again() -> None:
    driver = taught(replica("a"))
    driver.start("a/x", "b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    driver.tell(AttemptEnded("b/x", 1, "undelivered"))
    driver.tell(AttemptEnded("b/x", 1, "undelivered"))
    assert driver.machine.runs.calls["b/x"].tries == 0


def test_background_that_is_about_to_end_is_counted_no_more_than_what_is_busy() -> None:
    state = ReplicaState(replica("x", slots=2))
    stay = Stay(1.0, is_background=True)
    state.start("a", 1, stay, 0.0)
    assert (state.busy, state.background) == (1, 1)
    state.let_in(("a", 1), stay)
    assert (state.busy, state.background) == (0, 0)
    state.let_in(("a", 1), stay, is_ending=False)
    state.let_in(("a", 1), stay)
    state.end(("a", 1))
    assert (state.busy, state.background) == (0, 0)
