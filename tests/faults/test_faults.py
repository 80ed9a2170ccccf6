"""Random faults over small random scenarios keep the contract, and a machine that breaks it is found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import pytest

from dask_fmware.runtime.dispatching.dispatch import Dispatcher
from dask_fmware.runtime.dispatching.hedging import Hedging
from dask_fmware.runtime.machine import Machine
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.slots import ReplicaState
from dask_fmware.runtime.runs import attempts
from tests.faults.drawing import Kind
from tests.faults.world import FaultyWorld
from tests.runtime.builders import POLICY_NAMES

ORDINARY, NIGHTLY = 50, 1000


def check(seed: int, policy: str) -> FaultyWorld:
    world = FaultyWorld(seed, policy)
    found = world.run()
    again = f"again: python -m tests.faults --seed {seed} --policy {policy} --verbose"
    assert not found, "\n".join([*found[:10], again])
    return world


def policies_of(seed: int) -> list[str]:
    """Two of all policies, in turns."""
    return [POLICY_NAMES[(2 * seed + n) % len(POLICY_NAMES)] for n in range(2)]


@pytest.mark.parametrize("first", range(0, ORDINARY, 10))
def test_faults_break_no_promise(first: int) -> None:
    for seed in range(first, first + 10):
        for policy in policies_of(seed):
            check(seed, policy)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_thousand_seeds_break_no_promise(policy: str) -> None:
    for seed in range(ORDINARY, NIGHTLY):
        check(seed, policy)


def test_every_kind_of_fault_befalls_somebody_and_most_runs_are_served_all_the_same() -> None:
    injected: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for seed in range(15):
        world = check(seed, "greedy")
        injected += world.injected
        counts += world.contract.counts
    kinds = {*get_args(Kind), "poison", "stuck", "message told twice", "message told late"} - {
        "lose result",
        "undeliver",
    }
    assert {*kinds, "result lost", "assignment not delivered"} <= {*injected}
    assert counts["runs finished"] > counts["runs failed"] > 0


def test_the_same_seed_plays_the_same() -> None:
    first, second = check(7, "slack"), check(7, "slack")
    assert first.told == second.told
    assert first.injected == second.injected


def _a_slot_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    free = ReplicaState.free_slots.fget
    assert free is not None
    monkeypatch.setattr(ReplicaState, "free_slots", property(lambda state: free(state) + 1))


def _drained_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    restate = Fleet.restate

    def undrained(fleet: Fleet, state: ReplicaState, **changes: Any) -> None:
        restate(fleet, state, **{name: value for name, value in changes.items() if name != "is_draining"})

    monkeypatch.setattr(Fleet, "restate", undrained)


def _tries_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "undelivered", lambda call, number, now: setattr(call, "tries", 0))
    begin = attempts.begin

    def uncounted(call: object, *rest: object) -> None:
        begin(call, *rest)  # type: ignore[arg-type]
        call.tries = 0  # type: ignore[attr-defined]

    monkeypatch.setattr(attempts, "begin", uncounted)


def _queues_of_lost_replicas_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "rehold", lambda dispatcher, state, now: [])


def _freed_slots_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "_replica_ready", lambda machine, event, now: machine.fleet.add(event.replica) and [])
    monkeypatch.setattr(Dispatcher, "serve", lambda dispatcher, state, now: [])


def _calls_are_moved_where_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hedging, "_soonest_elsewhere", lambda hedging, call, view, now: now)


@pytest.mark.parametrize(
    "mutate",
    [
        _a_slot_too_many,
        _drained_are_offered,
        _tries_are_not_counted,
        _queues_of_lost_replicas_are_forgotten,
        _freed_slots_are_not_offered,
        _calls_are_moved_where_nothing_is,
    ],
)
def test_a_machine_that_breaks_its_promises_is_found_out(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert any(_is_found_out(seed) for seed in range(10))


def _is_found_out(seed: int) -> bool:
    try:
        return bool(FaultyWorld(seed, "greedy").run())
    except (AssertionError, KeyError):
        return True
