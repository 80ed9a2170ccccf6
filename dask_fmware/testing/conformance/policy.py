"""What every routing policy owes to the machine, as tests that a test module of a policy's package inherits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_fmware.policy import Bind, CallView, Park, Policy, ReplicaView, Wait
from dask_fmware.policy.checked import CheckedPolicy
from dask_fmware.policy.protocol import Draw
from dask_fmware.testing.conformance.scenario import played
from dask_fmware.testing.conformance.strategies import calls, fleets, moments
from dask_fmware.testing.views import SLOW, call, draws, replica

__all__ = ["PolicyTests"]

MakePolicy: TypeAlias = Callable[[Draw], Policy]

# Machines are busy; and tests that are inherited run in more than one class, with a fixture that keeps nothing.
few = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 100)


class PolicyTests:
    """Inherit these tests, and say how the policy is made.

    They ask as the machine does, so an answer that it would not take fails the test. A policy that goes by the place of
    a replica in the list says so by an attribute ``in_turn = True``, one that draws by drawing: where neither does, the
    order of the list must not matter.

    Examples
    --------
    >>> class TestLeastTokens(PolicyTests):
    ...     @pytest.fixture
    ...     def make_policy(self):
    ...         return LeastTokens  # or a function that takes the source of random numbers
    """

    @pytest.fixture
    def make_policy(self) -> MakePolicy:
        """What makes a policy, called with its source of random numbers."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture make_policy that returns what makes the policy, called with its "
            "source of random numbers"
        )

    # -- choices ---------------------------------------------------------------------------------

    @few
    @given(question=calls, views=fleets(), now=moments, seed=seeds)
    def test_a_choice_is_one_of_the_given_replicas_or_to_wait_with_a_reason(
        self, make_policy: MakePolicy, question: CallView, views: list[ReplicaView], now: float, seed: int
    ) -> None:
        policy = CheckedPolicy(make_policy(draws(seed)))
        for _ in range(3):
            choice = policy.choose(question, views, now)
            assert choice.reason
            assert isinstance(choice, Wait | Park) or choice.replica_id in {view.replica_id for view in views}

    @few
    @given(question=calls, views=fleets(), now=moments)
    def test_a_call_that_is_parked_is_not_parked_again(
        self, make_policy: MakePolicy, question: CallView, views: list[ReplicaView], now: float
    ) -> None:
        policy, parked = CheckedPolicy(make_policy(draws())), replace(question, parked=True)
        policy.order(parked)
        assert isinstance(policy.choose(parked, views, now), Bind | Wait)

    @few
    @given(questions=st.lists(calls, min_size=1, max_size=4), views=fleets(), seed=seeds)
    def test_equal_questions_and_draws_get_equal_answers(
        self, make_policy: MakePolicy, questions: list[CallView], views: list[ReplicaView], seed: int
    ) -> None:
        one, other = (CheckedPolicy(make_policy(draws(seed))) for _ in range(2))
        for question in questions:
            assert one.choose(question, views, 5.0) == other.choose(question, list(views), 5.0)

    @few
    @given(question=calls.filter(lambda c: c.deadline is None), views=fleets(), now=moments)
    def test_a_call_without_an_objective_waits_only_if_no_replica_has_room(
        self, make_policy: MakePolicy, question: CallView, views: list[ReplicaView], now: float
    ) -> None:
        if isinstance(CheckedPolicy(make_policy(draws())).choose(question, views, now), Wait):
            assert not any(view.has_room for view in views)

    def test_a_single_idle_replica_is_taken(self, make_policy: MakePolicy) -> None:
        for seed in range(5):
            assert isinstance(CheckedPolicy(make_policy(draws(seed))).choose(call(), [replica()], 11.0), Bind)

    def test_a_fleet_that_is_full_is_answered_too(self, make_policy: MakePolicy) -> None:
        views = [replica(name, running=1, waiting=waiting) for name, waiting in (("a", 0), ("b", 3))]
        choice = CheckedPolicy(make_policy(draws())).choose(call(), views, 11.0)
        assert isinstance(choice, Wait | Park) or choice.replica_id in {"tcp://a", "tcp://b"}

    def test_the_only_replica_of_a_thousand_with_room_is_found_or_another_is_queued_on(
        self, make_policy: MakePolicy
    ) -> None:
        views = [replica(f"w{i:04}", running=0 if i == 617 else 1) for i in range(1000)]
        policy = CheckedPolicy(make_policy(draws()))
        assert all(isinstance(policy.choose(call(str(i)), views, 11.0), Bind) for i in range(20))

    def test_replicas_that_share_a_name_are_told_apart(self, make_policy: MakePolicy) -> None:
        views = [replica("a", replica_id="tcp://1"), replica("a", replica_id="tcp://2")]
        assert isinstance(CheckedPolicy(make_policy(draws())).choose(call(), views, 11.0), Bind)

    @few
    @given(data=st.data(), question=calls, views=fleets(), now=moments)
    def test_a_choice_by_merit_does_not_depend_on_the_order_of_the_list(
        self, make_policy: MakePolicy, data: st.DataObject, question: CallView, views: list[ReplicaView], now: float
    ) -> None:
        drawn: list[float] = []

        def draw() -> float:
            drawn.append(0.5)
            return 0.5

        if getattr(make_policy(draw), "in_turn", False):
            pytest.skip("the policy goes by the place in the list")
        shuffled = data.draw(st.permutations(views))
        one, other = (CheckedPolicy(make_policy(draw)) for _ in range(2))
        assert one.choose(question, views, now) == other.choose(question, shuffled, now) or drawn

    @few
    @given(question=calls, views=fleets())
    def test_a_policy_does_not_remember_what_it_saw_of_the_cluster(
        self, make_policy: MakePolicy, question: CallView, views: list[ReplicaView]
    ) -> None:
        """After a look at any fleet it takes an idle fleet as one does that has seen none, but for its turn."""
        fresh, seasoned = (CheckedPolicy(make_policy(lambda: 0.0)) for _ in range(2))
        seasoned.choose(question, views, 5.0)
        idle = [replica("only", latency=SLOW)]
        assert fresh.choose(question, idle, 5.0) == seasoned.choose(question, idle, 5.0)

    # -- keys ------------------------------------------------------------------------------------

    @few
    @given(questions=st.lists(calls, min_size=2, max_size=6), are_parked=st.booleans())
    def test_order_is_a_total_order(self, make_policy: MakePolicy, questions: list[CallView], are_parked: bool) -> None:
        policy = CheckedPolicy(make_policy(draws()))
        asked = [replace(question, parked=are_parked) for question in questions]
        orders = [policy.order(question) for question in asked]
        assert len(sorted(orders)) == len(orders)
        assert orders == [policy.order(question) for question in asked]

    @few
    @given(views=fleets())
    def test_rank_is_a_total_order_that_does_not_change(
        self, make_policy: MakePolicy, views: list[ReplicaView]
    ) -> None:
        policy = CheckedPolicy(make_policy(draws()))
        ranks = [policy.rank(view) for view in views]
        policy.choose(call(), views, 11.0)  # raises if a rank is unsound
        assert len(sorted(ranks)) == len(ranks)
        assert ranks == [policy.rank(view) for view in views]

    def test_a_higher_priority_is_served_first_all_else_equal(self, make_policy: MakePolicy) -> None:
        policy = CheckedPolicy(make_policy(draws()))
        assert policy.order(call(priority=1)) < policy.order(call(priority=0)) < policy.order(call(priority=-1))

    def test_equal_calls_are_served_in_the_order_of_their_arrival(self, make_policy: MakePolicy) -> None:
        policy = CheckedPolicy(make_policy(draws()))
        assert policy.order(call("b")) == policy.order(call("a"))  # the machine adds the arrival

    # -- in the machine --------------------------------------------------------------------------

    @pytest.mark.parametrize("window_s", [8.0, 0.8], ids=["calm", "crowded"])
    def test_every_run_of_a_simulation_ends_and_the_contract_is_kept(
        self, make_policy: MakePolicy, window_s: float
    ) -> None:
        outcomes, breaches = played(make_policy(draws()), window_s)
        assert len(outcomes) == 40
        assert max(outcome.finished_at for outcome in outcomes) < inf
        assert not breaches
