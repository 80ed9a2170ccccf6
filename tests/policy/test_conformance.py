"""What every policy owes to the machine. A policy is held to it as soon as it has a name, in another package too."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.policy import Bind, CallView, Choice, Park, ReplicaView, Wait, create_policy, policy_names
from tests.policy.views import SLOW, call, calls, draws, fleets, replica

TAKE_TURNS = {"round_robin"}  # choose by the place in the list, so its order matters, as it does to draws

few = settings(max_examples=25)
every_policy = pytest.mark.parametrize("name", policy_names())


def choose(name: str, views: list[ReplicaView], *, question: CallView | None = None, seed: int = 0) -> Choice:
    return create_policy(name, draws(seed)).choose(question or call(), views, 11.0)


@every_policy
def test_a_policy_is_called_as_it_is_registered(name: str) -> None:
    assert create_policy(name, draws()).name == name


@every_policy
@few
@given(question=calls, views=fleets(), now=st.floats(0, 1e4), seed=st.integers(0, 100))
def test_a_choice_is_one_of_the_given_replicas_or_to_wait_with_a_reason(
    name: str, question: CallView, views: list[ReplicaView], now: float, seed: int
) -> None:
    policy = create_policy(name, draws(seed))
    for _ in range(3):
        choice = policy.choose(question, views, now)
        assert choice.reason
        assert isinstance(choice, Wait | Park) or choice.replica_id in {v.replica_id for v in views}


@every_policy
@few
@given(questions=st.lists(calls, min_size=1, max_size=4), views=fleets(), seed=st.integers(0, 100))
def test_equal_questions_and_draws_get_equal_answers(
    name: str, questions: list[CallView], views: list[ReplicaView], seed: int
) -> None:
    one, other = (create_policy(name, draws(seed)) for _ in range(2))
    for question in questions:
        assert one.choose(question, views, 5.0) == other.choose(question, list(views), 5.0)


@every_policy
@few
@given(question=calls.filter(lambda c: c.deadline is None), views=fleets(), now=st.floats(0, 1e4))
def test_a_call_without_an_objective_waits_only_if_no_replica_has_room(
    name: str, question: CallView, views: list[ReplicaView], now: float
) -> None:
    if isinstance(create_policy(name, draws()).choose(question, views, now), Wait):
        assert not any(v.has_room for v in views)


@every_policy
@few
@given(questions=st.lists(calls, min_size=2, max_size=6))
def test_order_is_a_total_order(name: str, questions: list[CallView]) -> None:
    policy = create_policy(name, draws())
    orders = [policy.order(question) for question in questions]
    assert all(isinstance(o, tuple) and all(isinstance(x, float | int) for x in o) for o in orders)
    assert not any(math.isnan(x) for o in orders for x in o)
    assert len({len(o) for o in orders}) == 1
    assert orders == [policy.order(question) for question in questions]


@every_policy
def test_a_higher_priority_is_served_first_all_else_equal(name: str) -> None:
    policy = create_policy(name, draws())
    assert policy.order(call(priority=1)) < policy.order(call(priority=0)) < policy.order(call(priority=-1))


@every_policy
def test_equal_calls_are_served_in_the_order_of_their_arrival(name: str) -> None:
    policy = create_policy(name, draws())
    assert policy.order(call("b")) == policy.order(call("a"))  # the machine adds the arrival


@every_policy
def test_a_single_idle_replica_is_taken(name: str) -> None:
    for seed in range(5):
        assert isinstance(choose(name, [replica()], seed=seed), Bind)


@every_policy
def test_a_fleet_that_is_full_is_answered_too(name: str) -> None:
    views = [replica(n, running=1, waiting=w) for n, w in (("a", 0), ("b", 3))]
    choice = choose(name, views)
    assert isinstance(choice, Wait) or choice.replica_id in {"tcp://a", "tcp://b"}


@every_policy
def test_the_only_replica_of_a_thousand_with_room_is_found_or_another_is_queued_on(name: str) -> None:
    views = [replica(f"w{i:04}", running=0 if i == 617 else 1) for i in range(1000)]
    policy = create_policy(name, draws())
    assert all(isinstance(policy.choose(call(str(i)), views, 11.0), Bind) for i in range(20))


@every_policy
def test_replicas_that_share_a_name_are_told_apart(name: str) -> None:
    views = [replica("a", replica_id="tcp://1"), replica("a", replica_id="tcp://2")]
    assert isinstance(choose(name, views), Bind)


@pytest.mark.parametrize("name", [name for name in policy_names() if name not in TAKE_TURNS])
@few
@given(data=st.data(), question=calls, views=fleets(), now=st.floats(0, 1e4))
def test_a_choice_by_merit_does_not_depend_on_the_order_of_the_list(
    name: str, data: st.DataObject, question: CallView, views: list[ReplicaView], now: float
) -> None:
    shuffled = data.draw(st.permutations(views))
    drawn: list[float] = []
    one, other = (create_policy(name, lambda: drawn.append(0.5) or 0.5) for _ in range(2))
    assert one.choose(question, views, now) == other.choose(question, shuffled, now) or drawn


@every_policy
@few
@given(question=calls, views=fleets())
def test_a_policy_does_not_remember_what_it_saw_of_the_cluster(
    name: str, question: CallView, views: list[ReplicaView]
) -> None:
    """After a look at any fleet it takes an idle fleet as a policy does that has seen none, but for its turn."""
    fresh, seasoned = (create_policy(name, lambda: 0.0) for _ in range(2))
    seasoned.choose(question, views, 5.0)
    idle = [replica("only", latency=SLOW)]
    assert fresh.choose(question, idle, 5.0) == seasoned.choose(question, idle, 5.0)
