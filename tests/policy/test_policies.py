"""What tells each policy from the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from dask_fmware.errors import DeploymentError
from dask_fmware.policy import POLICIES, Bind, Park, Wait, create_policy
from dask_fmware.policy.estimate import estimate, execution_s
from dask_fmware.policy.greedy import Greedy
from dask_fmware.policy.least_outstanding import LeastOutstanding
from dask_fmware.policy.power_of_two import PowerOfTwo
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.spec.deployment import Latency
from dask_fmware.testing.views import FAST, SLOW, call, draws, replica


def name_of(choice) -> str:
    assert isinstance(choice, Bind)
    return choice.replica_id.removeprefix("tcp://")


# -- estimate ------------------------------------------------------------------------------------


def test_execution_is_first_token_prompt_and_output() -> None:
    assert execution_s(Latency(first_token_s=1.0, prompt_token_s=0.1, output_token_s=0.01), 10, 100) == pytest.approx(3)


def test_an_answer_is_costed_in_time_to_first_token() -> None:
    view = replica()
    full = estimate(call(output_tokens=1000.0), view, 0.0)
    first = estimate(call(output_tokens=1000.0, answers=True), view, 0.0)
    assert first.l_x == pytest.approx(FAST.first_token_s + 100 * FAST.prompt_token_s)
    assert full.l_x == pytest.approx(first.l_x + 1000 * FAST.output_token_s)


def test_an_idle_replica_costs_nothing_but_the_call_itself() -> None:
    cost = estimate(call(), replica(), 5.0)
    assert (cost.l_q, cost.l_r) == (0.0, 0.0)
    assert cost.l_est == cost.l_x


def test_a_full_replica_costs_the_time_until_a_slot_is_free_and_the_queue_shared_by_its_slots() -> None:
    cost = estimate(call(), replica(slots=2, running=2, waiting=3, waiting_s=6.0, slot_free_at=9.0), 5.0)
    assert cost.l_r == pytest.approx(4.0)
    assert cost.l_q == pytest.approx(3.0)
    assert cost.l_est == pytest.approx(cost.l_x + 7.0)


def test_a_slot_that_is_late_costs_nothing_rather_than_less_than_nothing() -> None:
    assert estimate(call(), replica(running=1, slot_free_at=3.0), 5.0).l_r == 0.0


def test_a_partly_busy_replica_has_a_slot_now() -> None:
    assert estimate(call(), replica(slots=2, running=1, slot_free_at=0.0), 5.0).l_r == 0.0


# -- greedy --------------------------------------------------------------------------------------


def test_greedy_prefers_the_fast_card_when_both_are_idle() -> None:
    views = [replica("a", latency=SLOW), replica("b", latency=FAST)]
    assert name_of(Greedy().choose(call(), views, 0.0)) == "b"


def test_greedy_takes_the_slow_card_when_the_fast_one_is_late() -> None:
    views = [replica("a", latency=SLOW), replica("b", latency=FAST, running=1, slot_free_at=100.0)]
    assert name_of(Greedy().choose(call(), views, 0.0)) == "a"


def test_greedy_waits_for_the_fast_card_when_that_is_still_sooner() -> None:
    views = [replica("a", latency=SLOW), replica("b", latency=FAST, running=1, slot_free_at=0.5)]
    assert name_of(Greedy().choose(call(), views, 0.0)) == "b"


def test_greedy_breaks_ties_by_the_emptier_card_then_by_name() -> None:
    views = [replica("a", card_running=2), replica("b", card_running=1), replica("c", card_running=1)]
    assert name_of(Greedy().choose(call(), views, 0.0)) == "b"


def test_greedy_says_what_the_estimate_is_made_of() -> None:
    choice = Greedy().choose(call(), [replica(running=1, waiting=1, slot_free_at=2.0, waiting_s=3.0)], 1.0)
    assert choice.reason == "least estimate 4.650 s (own 0.650, queue 3.000, running 1.000)"


def test_greedy_may_choose_differently_for_an_answer() -> None:
    prefill = Latency(first_token_s=0.1, output_token_s=0.1)
    decode = Latency(first_token_s=0.5, output_token_s=0.001)
    views = [replica("a", latency=prefill), replica("b", latency=decode)]
    assert name_of(Greedy().choose(call(answers=True), views, 0.0)) == "a"
    assert name_of(Greedy().choose(call(answers=False), views, 0.0)) == "b"


# -- least outstanding ---------------------------------------------------------------------------


def test_least_outstanding_counts_calls_for_each_slot() -> None:
    views = [replica("a", slots=1, running=1), replica("b", slots=8, running=4)]
    assert name_of(LeastOutstanding().choose(call(), views, 0.0)) == "b"


def test_least_outstanding_counts_calls_that_wait() -> None:
    views = [replica("a", running=1, waiting=2), replica("b", running=1, waiting=1)]
    assert name_of(LeastOutstanding().choose(call(), views, 0.0)) == "b"


def test_least_outstanding_breaks_ties_by_card_then_speed_then_name() -> None:
    busy, slow = replica("a", card_running=1), replica("b", latency=SLOW)
    fast, same = replica("c", latency=FAST), replica("d", latency=FAST)
    assert name_of(LeastOutstanding().choose(call(), [busy, slow, fast, same], 0.0)) == "c"
    assert name_of(LeastOutstanding().choose(call(), [busy, slow], 0.0)) == "b"


def test_least_outstanding_uses_a_slow_idle_card_before_a_fast_busy_one() -> None:
    views = [replica("a", running=1, slots=2, latency=FAST), replica("b", slots=2, latency=SLOW)]
    assert name_of(LeastOutstanding().choose(call(), views, 0.0)) == "b"


# -- power of two --------------------------------------------------------------------------------


def test_power_of_two_takes_the_less_loaded_of_the_two_drawn() -> None:
    views = [replica(n, slots=9, running=r) for n, r in (("a", 5), ("b", 2), ("c", 0))]
    numbers = iter([0.0, 0.0])  # draws the first, then the first of the others
    assert name_of(PowerOfTwo(lambda: next(numbers)).choose(call(), views, 0.0)) == "b"


def test_power_of_two_draws_every_pair_of_different_replicas() -> None:
    views = [replica(n, slots=9, running=9 if n == "a" else 0) for n in "abc"]
    policy = PowerOfTwo(draws(3))
    chosen = Counter(name_of(policy.choose(call(), views, 0.0)) for _ in range(600))
    assert set(chosen) == {"b", "c"}
    assert 200 < chosen["b"] < 400


def test_power_of_two_uses_equal_replicas_equally() -> None:
    views, policy = [replica(n) for n in "abcd"], PowerOfTwo(draws(1))
    chosen = Counter(name_of(policy.choose(call(), views, 0.0)) for _ in range(800))
    assert all(150 < chosen[n] < 250 for n in "abcd"), chosen


def test_power_of_two_copes_with_the_largest_draw() -> None:
    policy = PowerOfTwo(lambda: 1.0 - 2**-53)
    for count in (1, 2, 3, 1000):
        views = [replica(f"w{i:04}") for i in range(count)]
        assert name_of(policy.choose(call(), views, 0.0)) == f"w{count - 1:04}"


def test_power_of_two_waits_when_all_are_full() -> None:
    full = [replica("a", running=1, waiting=4), replica("b", running=1, waiting=4)]
    choice = PowerOfTwo(draws()).choose(call(), full, 0.0)
    assert choice == Wait("all 2 replicas are at their bound of ongoing calls")


def test_power_of_two_finds_the_only_replica_below_its_bound() -> None:
    views = [replica(n, running=1, waiting=w) for n, w in (("a", 4), ("b", 4), ("c", 3))]
    for seed in range(20):
        assert name_of(PowerOfTwo(draws(seed)).choose(call(), views, 0.0)) == "c"


# -- round robin ---------------------------------------------------------------------------------


def test_round_robin_takes_turns_by_name() -> None:
    views, policy = [replica(n) for n in "abc"], RoundRobin()
    assert "".join(name_of(policy.choose(call(), views, 0.0)) for _ in range(7)) == "abcabca"


def test_round_robin_keeps_a_turn_for_each_model() -> None:
    policy = RoundRobin()
    views = {m: [replace(replica(f"{m}{i}"), model=m) for i in range(2)] for m in "xy"}
    order = [name_of(policy.choose(call(model=m), views[m], 0.0)) for m in "xyxy"]
    assert order == ["x0", "y0", "x1", "y1"]


def test_round_robin_goes_on_when_the_last_replica_is_gone() -> None:
    policy = RoundRobin()
    views = [replica(n) for n in "abc"]
    assert [name_of(policy.choose(call(), views, 0.0)) for _ in range(2)] == ["a", "b"]
    assert name_of(policy.choose(call(), [views[0], views[2]], 0.0)) == "c"


def test_round_robin_gives_a_turn_to_each_of_two_replicas_of_one_name() -> None:
    """A restarted worker has its old name and a new address; both may be there for a moment."""
    views = [replica("a", replica_id="tcp://1"), replica("a", replica_id="tcp://2"), replica("b", replica_id="tcp://3")]
    policy = RoundRobin()
    assert [name_of(policy.choose(call(), views, 0.0)) for _ in range(4)] == ["1", "2", "3", "1"]


# -- registry ------------------------------------------------------------------------------------


def test_an_unknown_policy_is_refused_with_the_names_of_those_known() -> None:
    with pytest.raises(DeploymentError, match=r"no policy is called 'fastest' \(known: .*greedy"):
        create_policy("fastest", draws())


def test_policies_do_not_share_their_turn() -> None:
    for name in POLICIES:
        assert create_policy(name, draws()) is not create_policy(name, draws())


def test_a_replica_has_room_only_without_a_queue() -> None:
    assert replica(slots=2, running=1).has_room
    assert not replica(slots=2, running=2).has_room
    assert not replica(slots=2, running=1, waiting=1).has_room
    assert replica(slots=2, running=2, waiting=1).outstanding == 3


def test_slack_gives_an_idle_replica_to_a_tenant_that_is_ahead_since_nothing_would_wake_its_call() -> None:
    ahead = call(deadline=40.0, answers=True, excess=3.0)
    batching = replica("a", slots=4)  # no step-time law is known
    slack = create_policy("slack", draws())
    assert isinstance(slack.choose(ahead, [batching], 10.0), Bind)
    assert isinstance(slack.choose(ahead, [replica("a", slots=4, running=1)], 10.0), Wait)


def test_slack_keeps_slots_for_runs_under_way_while_such_are_lost_and_not_from_background_calls() -> None:
    slack, fresh = create_policy("slack", draws()), call(deadline=40.0, own_s=1.0)
    begun = replace(fresh, begun=True)
    idle, busy = replica("a", slots=8), replica("a", slots=8, running=7)
    assert isinstance(slack.choose(fresh, [busy], 10.0), Bind), "nothing was lost yet"
    for _ in range(40):
        assert isinstance(slack.choose(replace(begun, deadline=10.0), [idle], 10.0), Park)
    assert isinstance(slack.choose(fresh, [busy], 10.0), Wait), "what is left is kept for runs under way"
    assert isinstance(slack.choose(begun, [busy], 10.0), Bind)
    assert isinstance(slack.choose(fresh, [replace(busy, background=2)], 10.0), Bind)
    for _ in range(100):
        assert isinstance(slack.choose(begun, [idle], 10.0), Bind)
    assert isinstance(slack.choose(fresh, [busy], 10.0), Bind), "they are in time again"


@pytest.mark.parametrize("answers", [False, True])
def test_slack_fills_a_replica_without_a_profile_up_to_what_is_kept(answers: bool) -> None:
    slack, row = create_policy("slack", draws()), call("row")
    for number in range(20):  # a burst of urgent calls, which leave much time
        slack.order(call(f"{number}", deadline=40.0, own_s=1.0, runnable_at=9.8 + number / 100, answers=answers))
    assert isinstance(slack.choose(row, [replica("a", slots=8, running=4)], 10.0), Bind)
    assert isinstance(slack.choose(row, [replica("a", slots=8, running=5)], 10.0), Wait)
    assert isinstance(slack.choose(row, [replica("a", slots=8, running=4, stretch=500.0)], 10.0), Wait)


@pytest.mark.parametrize(
    ("deadline", "own_s", "until"),
    [
        (13.0, 0.5, 12.5),  # it would be late on an idle one
        (13.0, 5.0, 11.85),  # the busy one is expected to be quicker than any: as long as its slot may be late
        (11.15, 5.0, 10.001),
    ],
)
def test_slack_says_how_long_it_waits_for_a_busy_replica(deadline: float, own_s: float, until: float) -> None:
    """Expected is a slot after 1 s and a first token 0.15 s later."""
    busy, slow = replica("a", slots=4, running=4, slot_free_at=11.0), replica("b", slots=4, latency=SLOW)
    late = call(deadline=deadline, answers=True, own_s=own_s, prompt_tokens=100)
    waits = create_policy("slack", draws()).choose(late, [busy, replace(slow, stretch=1.0, delay_s=9.0)], 10.0)
    assert isinstance(waits, Wait)
    assert waits.until == pytest.approx(until)
