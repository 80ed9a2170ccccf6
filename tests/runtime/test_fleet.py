from __future__ import annotations

import pytest

from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.slots import ReplicaState, Stay
from tests.runtime.builders import replica


def ticket(call_id: str, order: float = 0.0, arrival: int = 0):
    return (order,), arrival, call_id


def test_views_are_sorted_by_name_and_kept_until_something_changes() -> None:
    fleet = Fleet()
    for name in ("b", "a"):
        fleet.add(replica(name))
    views = list(fleet.views("small"))
    assert [v.name for v in views] == ["a", "b"]
    assert all(one is other for one, other in zip(fleet.views("small"), views, strict=True))
    fleet.take(fleet.get("tcp://a"), "call", 1, Stay(9.0), 0.0)  # type: ignore[arg-type]
    assert [v.running for v in fleet.views("small")] == [1, 0]
    assert fleet.views("small")[1] is views[1]


def test_a_view_shows_the_load_of_its_card() -> None:
    fleet = Fleet()
    small = fleet.add(replica("a", "small", card="host/0"))
    fleet.add(replica("b", "large", card="host/0"))
    assert fleet.views("large")[0].card_running == 0
    fleet.take(small, "call", 1, Stay(9.0), 0.0)
    assert fleet.views("large")[0].card_running == 1
    fleet.remove("tcp://a", 1.0)
    assert fleet.views("large")[0].card_running == 0


def test_a_full_replica_says_when_a_slot_is_expected_to_be_free() -> None:
    fleet = Fleet()
    state = fleet.add(replica("a", slots=2))
    fleet.take(state, "x", 1, Stay(9.0), 0.0)
    assert fleet.views("small")[0].slot_free_at == 0.0
    assert fleet.views("small")[0].has_room
    fleet.take(state, "y", 1, Stay(7.0), 0.0)
    assert fleet.views("small")[0].slot_free_at == 7.0
    assert not fleet.views("small")[0].has_room


def test_prompts_that_were_processed_sooner_than_expected_are_not_waited_for() -> None:
    fleet = Fleet()
    state = fleet.add(replica("a", slots=4))
    for number, call in enumerate("xyz"):
        stay = Stay(99.0)
        state.given(stay, 10.0 + number, 0.0)
        fleet.take(state, call, 1, stay, 0.0)
    assert fleet.views("small")[0].prefill_until == 33.0
    fleet.processed("x", 1, 2.0)
    assert fleet.views("small")[0].prefill_until == 25.0, "the prompts of y and z are still to come"
    fleet.processed("y", 1, 3.0)
    fleet.processed("x", 1, 4.0)
    assert fleet.views("small")[0].prefill_until == 15.0, "what is known already is no news"
    for call in "xyz":
        fleet.free(call, 1, 4.0)
    assert fleet.views("small")[0].prefill_until == 0.0, "nothing runs, so nothing is prefilled"
    fleet.processed("x", 1, 5.0)


def test_a_slot_is_freed_once() -> None:
    fleet = Fleet()
    state = fleet.add(replica("a"))
    fleet.take(state, "x", 1, Stay(9.0), 0.0)
    assert fleet.holds("x", 1)
    assert (fleet.free("x", 1, 1.0) or (None,))[0] is state
    assert fleet.free("x", 1, 1.0) is None
    assert not fleet.holds("x", 1)
    assert state.free_slots == 1


def test_a_replica_that_is_gone_takes_its_slots_along() -> None:
    fleet = Fleet()
    state = fleet.add(replica("a"))
    fleet.take(state, "x", 1, Stay(9.0), 0.0)
    assert fleet.remove("tcp://a", 1.0) is state
    assert fleet.free("x", 1, 1.0) is None
    assert fleet.remove("tcp://a", 1.0) is None
    assert fleet.views("small") == []
    assert not fleet.hosts("small")
    assert fleet.models == []
    assert len(fleet) == 0


def test_a_draining_replica_is_hosted_but_not_offered() -> None:
    fleet = Fleet()
    state = fleet.add(replica("a"))
    fleet.restate(state, is_draining=True)
    assert fleet.views("small") == []
    assert fleet.hosts("small")
    assert fleet.models == ["small"]
    assert [s.replica.name for s in fleet] == ["a"]


def test_waiting_work_is_the_sum_of_what_waits() -> None:
    state = ReplicaState(replica("a"))
    for call_id, expected_s in (("x", 0.1), ("y", 0.2), ("z", 0.3)):
        state.enqueue(ticket(call_id), expected_s)
    assert state.waiting_s == pytest.approx(0.6)
    assert state.withdraw("y")
    assert not state.withdraw("y")
    assert state.waiting_s == pytest.approx(0.4)
    assert state.next_waiting() == "x"
    assert state.next_waiting() == "z"
    assert state.next_waiting() is None
    assert state.waiting_s == 0.0  # exactly: no rounding stays behind


def test_an_evicted_queue_comes_out_in_order() -> None:
    state = ReplicaState(replica("a"))
    for arrival, (call_id, order) in enumerate([("late", 0.0), ("urgent", -1.0), ("later", 0.0)]):
        state.enqueue(ticket(call_id, order, arrival), 1.0)
    assert state.evict() == ["urgent", "late", "later"]
    assert state.waiting == 0
