"""Calls with one attempt left run alone; replicas that died under calls take one until it has finished."""

from __future__ import annotations

from collections import Counter

import pytest

from dask_fmware.runtime import ReplicaDraining, ReplicaGone, ReplicaReady, RunDropped
from tests.runtime.builders import POLICY_NAMES, Driver, assigned, node, plan, replica


def crash(driver: Driver, name: str, *, back: bool = True) -> list[str]:
    """An engine dies under its calls, which come back; return them in order."""
    state = driver.machine.fleet.get(f"tcp://{name}")
    assert state is not None
    lost = [call_id for call_id, _ in state.running]
    driver.tell(ReplicaGone(f"tcp://{name}", "its engine died"))
    if back:
        driver.ready(replica(name, slots=state.replica.slots))
    driver.runnable(*lost)
    return lost


def running(driver: Driver, name: str) -> list[str]:
    state = driver.machine.fleet.get(f"tcp://{name}")
    return [call_id for call_id, _ in state.running] if state is not None else []


def twice_lost(driver: Driver) -> None:
    """Calls a, b and c have lost two attempts on replicas x and y, which are empty."""
    driver.ready(replica("x", slots=3))
    driver.start("a", "b", "c")
    driver.ready(replica("y", slots=3))
    crash(driver, "x", back=False)
    assert running(driver, "y") == ["a", "b", "c"]
    driver.tell(ReplicaGone("tcp://y", "its engine died"))


def test_calls_with_one_attempt_left_run_one_after_the_other_and_alone() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("z", slots=3))
    driver.runnable("a", "b", "c")
    assert running(driver, "z") == ["a"]
    assert driver.call("b").reason == "waits for a replica of its own: it has one attempt left"
    driver.start("fresh")
    assert running(driver, "z") == ["a"]
    assert driver.state("fresh") == "held"
    driver.end("a", attempt=3)
    assert running(driver, "z") == ["b"]
    driver.end("b", attempt=3)
    driver.end("c", attempt=3)
    assert running(driver, "z") == ["fresh"]


def test_a_replica_is_emptied_for_such_a_call_and_others_go_elsewhere() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("u", slots=3), replica("v", slots=3))
    driver.start("k", "l", "m")
    other = min("uv", key=lambda name: len(running(driver, name)))
    driver.runnable("a")
    assert driver.state("a") == "held"
    driver.start("n", "o")
    assert len(running(driver, other)) == 1  # nobody joins whoever is on the replica that is emptied
    (last,) = running(driver, other)
    driver.end(last)
    assert running(driver, other) == ["a"]
    driver.end("a", attempt=3)
    driver.start("p", "q")
    assert running(driver, other)


def test_the_death_of_its_engine_ends_a_call_that_was_alone() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("z", slots=3))
    driver.runnable("a", "b")
    driver.tell(ReplicaGone("tcp://z", "its engine died"))
    driver.runnable("a")
    assert driver.state("a") == "failed"
    assert "3 attempts failed" in driver.call("a").reason
    driver.ready(replica("z", slots=3))
    assert running(driver, "z") == ["b"]  # who was not there has lost nothing


@pytest.mark.parametrize("gone", ["drop", "drain"])
def test_a_replica_that_is_not_needed_any_more_is_given_back(gone: str) -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("z", slots=3))
    driver.start("k", "l")
    driver.runnable("a")
    assert driver.state("a") == "held"
    driver.start("fresh")
    assert running(driver, "z") == ["k", "l"]
    if gone == "drop":
        driver.tell(RunDropped("a"))
    else:
        driver.tell(ReplicaDraining("tcp://z"), ReplicaDraining("tcp://z", draining=False))
        driver.tell(RunDropped("a"))
    assert running(driver, "z") == ["k", "l", "fresh"]


def test_a_replica_that_drains_and_comes_back_is_kept_until_the_call_that_is_alone_on_it_has_ended() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("z", slots=3))
    driver.runnable("a")
    driver.tell(ReplicaDraining("tcp://z"), ReplicaDraining("tcp://z", draining=False))
    driver.start("fresh")
    assert running(driver, "z") == ["a"]
    driver.end("a", attempt=3)
    assert running(driver, "z") == ["fresh"]
    driver.start("more")
    assert running(driver, "z") == ["fresh", "more"]


def test_a_replica_is_emptied_of_its_last_call_before_the_next_one_is_emptied() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(*[replica(f"r{n}", slots=2) for n in range(4)])
    driver.start(*[f"k{n}" for n in range(4)])
    driver.runnable("a", "b", "c")
    (kept,) = [state for state in driver.machine.fleet if state.standing.kept_for is not None]
    (last,) = running(driver, kept.replica.name)  # it is not a call that is to be alone
    driver.end(last)
    assert running(driver, kept.replica.name) == ["a"]


def test_a_replica_that_is_emptied_for_nobody_any_more_takes_calls_beside_its_last_one() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("z", slots=3))
    driver.start("k")
    driver.runnable("a")
    driver.tell(RunDropped("a"))
    driver.start("fresh")
    assert running(driver, "z") == ["k", "fresh"]


def test_for_the_next_call_another_replica_is_emptied_while_the_one_that_is_kept_drains() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(replica("u", slots=3), replica("v", slots=3))
    driver.runnable("a")
    kept, other = ("u", "v") if running(driver, "u") else ("v", "u")
    driver.start("k")
    driver.tell(ReplicaDraining(f"tcp://{kept}"))
    driver.runnable("b")
    driver.start("fresh")
    assert (running(driver, kept), running(driver, other)) == (["a"], ["k"])
    driver.end("k")
    assert running(driver, other) == ["b"]


def test_at_most_half_of_the_replicas_are_kept() -> None:
    driver = Driver()
    twice_lost(driver)
    driver.ready(*[replica(f"r{n}", slots=2) for n in range(4)])
    driver.start(*[f"k{n}" for n in range(8)])
    driver.runnable("a", "b", "c")
    assert sum(state.standing.kept_for is not None for state in driver.machine.fleet) == 1  # one is emptied at a time
    for n in range(8):
        driver.end(f"k{n}")
        driver.start(f"more{n}")
    kept = [state for state in driver.machine.fleet if state.standing.kept_for is not None]
    assert 1 <= len(kept) <= 2
    assert all(len(state.running) == 1 for state in kept)


def test_where_calls_run_one_at_a_time_none_is_kept_apart() -> None:
    driver = Driver()
    driver.ready(replica("x"))
    driver.start("a")
    for name in ("y", "z"):
        before = "x" if name == "y" else "y"
        driver.ready(replica(name))
        crash(driver, before, back=False)
    assert running(driver, "z") == ["a"]
    assert not any(state.standing.kept_for is not None for state in driver.machine.fleet)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_replica_that_died_under_calls_takes_one_until_one_has_finished(policy: str) -> None:
    driver = Driver(policy)
    driver.ready(replica("x", slots=4))
    driver.start("a", "b", "c", "d", "e", "f")
    crash(driver, "x")
    (first,) = running(driver, "x")
    driver.end(first, "failed", attempt=2)
    assert len(running(driver, "x")) == 1  # a request that its engine refused says nothing of the engine
    (second,) = running(driver, "x")
    driver.end(second, attempt=len(driver.call(second).attempts))
    assert len(running(driver, "x")) == 4


def test_an_engine_that_said_first_that_it_crashed_is_on_trial_too() -> None:
    driver = Driver()
    driver.ready(replica("x", slots=4))
    driver.start("a")
    driver.end("a", "retry", error="EngineCrashedError: it died")
    driver.tell(ReplicaGone("tcp://x"), ReplicaReady(replica("x", slots=4)))
    driver.runnable("a")
    driver.start("b")
    assert len(running(driver, "x")) == 1


@pytest.mark.parametrize("outcome", ["finished", "format"])
def test_a_replica_that_went_while_idle_is_trusted_when_it_comes_back(outcome: str) -> None:
    driver = Driver()
    driver.ready(replica("x", slots=4))
    driver.start("a")
    if outcome == "finished":
        driver.end("a")
    else:
        driver.end("a", "retry", error="no label", is_sound=True)
    driver.tell(ReplicaGone("tcp://x"), ReplicaReady(replica("x", slots=4)))
    driver.start("b", "c", "d")
    assert running(driver, "x") == ["b", "c", "d"]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_no_attempt_is_spent_while_all_replicas_are_gone_and_few_when_they_come_back(policy: str) -> None:
    driver = Driver(policy)
    driver.ready(*[replica(f"r{n}", slots=8) for n in range(4)])
    calls = [f"c{n}" for n in range(600)]
    driver.start(*calls)
    started = Counter(state.replica.name for state in driver.machine.fleet for _ in state.running)
    assert started.total() == 32
    for n in range(4):
        driver.tell(ReplicaGone(f"tcp://r{n}"))
    for n in range(600):
        if driver.call(f"c{n}").attempts:
            driver.runnable(f"c{n}")
    assert driver.machine.held == 600
    spent = sum(len(driver.call(c).attempts) for c in calls)
    assert spent == 32
    for n in range(4):
        driver.ready(replica(f"r{n}", slots=8))
    more = sum(len(driver.call(c).attempts) for c in calls) - spent
    assert 1 <= more <= 4  # policies that bind early give all to the first


def test_a_replica_that_dies_again_and_again_spends_one_attempt_each_time() -> None:
    """Hundreds of calls wait: each round takes an attempt of one of them, not of as many as the replica has slots."""
    driver = Driver("slack")
    driver.ready(replica("x", slots=64))
    calls = [f"c{n}" for n in range(600)]
    driver.start(*calls)
    spent = 64
    for _ in range(30):
        crash(driver, "x")
        spent += 1
        assert sum(len(driver.call(c).attempts) for c in calls) == spent
    assert sum(driver.state(c) == "failed" for c in calls) <= 15


def test_a_call_that_waits_for_a_replica_of_its_own_costs_calls_of_other_models_no_look_at_their_fleet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    d = Driver()
    d.ready(*[replica(f"large{n}", "large") for n in range(50)])
    twice_lost(d)
    d.runnable("a")
    assert d.state("a") == "held"
    looked: list[str] = []
    of = d.machine.fleet.of
    monkeypatch.setattr(d.machine.fleet, "of", lambda model: looked.append(model) or of(model))
    d.submit(plan("other", [node("other", "large")]))
    d.runnable("other")
    looked.clear()
    d.end("other")
    assert looked == []


def test_names_of_the_dead_are_bounded() -> None:
    driver = Driver()
    for n in range(1200):
        driver.ready(replica(f"r{n}"))
        driver.submit(plan(f"c{n}"))
        assert assigned(driver.runnable(f"c{n}"))
        driver.tell(ReplicaGone(f"tcp://r{n}"), RunDropped(f"c{n}"))
    assert len(driver.machine.fleet._dead) == 1000
