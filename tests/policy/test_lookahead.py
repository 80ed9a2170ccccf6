"""Plans where calls run one at a time: who is in time, who answers soonest, and what may be given away meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.policy.lookahead import LookAhead
from dask_fmware.policy.outlook import Job, JobCall, JobStep, Lane
from dask_fmware.policy.protocol import Bind, ReplicaView, Wait
from dask_fmware.policy.slack import Slack, _cost
from dask_fmware.testing.views import call, replica

NOW = 10.0


class Shown:
    """An outlook made by hand."""

    def __init__(self, lanes: Sequence[Lane], jobs: Sequence[Job] = (), expected: Sequence[Job] = ()) -> None:
        self._lanes, self._jobs, self._expected = lanes, jobs, expected

    def lanes(self, now: float) -> Sequence[Lane]:
        return self._lanes

    def jobs(self, now: float, most: int) -> Sequence[Job]:
        return self._jobs[:most]

    def expected(self, now: float) -> Sequence[Job]:
        return self._expected


def lane(name: str, free_at: float = 0.0) -> Lane:
    return Lane(free_at, {"small": replica(replica_id=name, name=name)})


def job(run_id: str, seconds: float, due: float, at: float = NOW) -> Job:
    call = JobCall(run_id, "small", 0.0, seconds)
    step = JobStep((), at, 0.0, (call,), False, True, due)
    return Job(run_id, "default", 0, due, at, False, 0.0, (step,))


def cost(call: JobCall, answers: bool, replica: ReplicaView) -> tuple[float, float]:
    return call.output_tokens, call.output_tokens


def starts(outlook: Shown) -> list[str]:
    plan = LookAhead(cost).plan(outlook, NOW)
    assert plan is not None
    return [start.call_id for start in plan.starts]


def test_no_plan_is_made_without_lanes() -> None:
    ahead = LookAhead(cost)
    assert ahead.plan(Shown(()), NOW) is None
    assert not ahead.leaves_room("a", 1.0, NOW)


def test_what_is_due_first_starts_where_only_so_all_are_in_time() -> None:
    assert starts(Shown([lane("a")], [job("long", 1.0, due=11.0), job("short", 0.5, due=12.0)])) == ["long"]


def test_of_plans_with_all_in_time_the_one_that_answers_soonest_wins() -> None:
    assert starts(Shown([lane("a")], [job("long", 1.0, due=20.0), job("short", 0.5, due=21.0)])) == ["short"]


def test_a_card_is_given_away_if_the_runs_that_may_come_are_in_time_all_the_same() -> None:
    ahead = LookAhead(cost)
    ahead.plan(Shown([lane("a"), lane("b", free_at=11.0)], expected=[job("next", 1.0, due=12.0)]), NOW)
    assert ahead.leaves_room("a", 1.0, NOW)  # the next one waits for b at most
    ahead.plan(Shown([lane("a"), lane("b", free_at=11.5)], expected=[job("next", 1.0, due=12.0)]), NOW)
    assert ahead.leaves_room("a", 1.0, NOW)
    assert not ahead.leaves_room("a", 1.1, NOW)  # neither would be free in time


def test_a_card_that_the_plan_needs_counts_as_taken() -> None:
    ahead = LookAhead(cost)
    ahead.plan(Shown([lane("a"), lane("b")], [job("now", 1.0, due=11.0)], [job("next", 1.0, due=11.5)]), NOW)
    assert not ahead.leaves_room("b", 1.0, NOW)  # a runs the one that is there
    assert ahead.leaves_room("b", 0.5, NOW)


def test_nothing_is_given_away_while_nobody_knows_what_may_come() -> None:
    ahead = LookAhead(cost)
    ahead.plan(Shown([lane("a"), lane("b")]), NOW)
    assert not ahead.leaves_room("a", 0.001, NOW)


@pytest.mark.parametrize(("output_tokens", "is_lent"), [(50.0, True), (200.0, False)])
def test_a_card_is_lent_to_an_answer_only_if_it_ends_before_the_plan_needs_it(
    output_tokens: float, is_lent: bool
) -> None:
    """Its first token, by which it is judged, comes after 0.15 s in both cases; the card is needed after 1 s."""
    slack, card = Slack(), replica("a")
    slack.plan(Shown([Lane(0.0, {"small": card})], [job("next", 1.0, due=12.0, at=NOW + 1.0)]), NOW)
    choice = slack.choose(call(answers=True, output_tokens=output_tokens, deadline=13.0), [card], NOW)
    assert isinstance(choice, Bind if is_lent else Wait)


jobs = st.lists(st.tuples(st.floats(0.1, 2.0), st.floats(0.0, 4.0)), min_size=1, max_size=6)


@given(jobs=jobs)
def test_what_starts_is_in_time_and_alone_on_its_card(jobs: list[tuple[float, float]]) -> None:
    made = {f"r{i}": job(f"r{i}", seconds, NOW + seconds + slack - 1.0) for i, (seconds, slack) in enumerate(jobs)}
    plan = LookAhead(cost).plan(Shown([lane("a"), lane("b")], list(made.values())), NOW)
    assert plan is not None
    assert len({start.replica_id for start in plan.starts}) == len(plan.starts)
    can_be = {name for name, one in made.items() if NOW + one.steps[0].calls[0].output_tokens <= one.deadline}
    assert {start.call_id for start in plan.starts} <= can_be
    assert len(plan.starts) == min(len(can_be), 2)  # no card is left idle


@given(jobs=jobs, spent=st.floats(0.1, 3.0), less=st.floats(0.0, 1.0))
def test_what_leaves_room_for_long_does_so_for_less(jobs: list[tuple[float, float]], spent: float, less: float) -> None:
    ahead = LookAhead(cost)
    expected = [job("next", seconds, NOW + seconds + slack) for seconds, slack in jobs[:1]]
    ahead.plan(Shown([lane("a"), lane("b")], expected=expected), NOW)
    if ahead.leaves_room("a", spent, NOW):
        assert ahead.leaves_room("a", less * spent + 0.001, NOW)


def test_a_call_that_stands_for_several_takes_as_long_as_they_do_one_after_the_other() -> None:
    card, one = replica("a", stretch=1.5, delay_s=0.25), JobCall(None, "small", 100.0, 50.0)  # 0.15 s and 0.5 s
    several = dataclasses.replace(one, times=4.0)
    assert _cost(one, False, card) == pytest.approx((0.975, 0.975))
    assert _cost(several, False, card) == pytest.approx((3.9, 3.9))
    assert _cost(one, True, card) == pytest.approx((0.4, 0.9))
    assert _cost(several, True, card) == pytest.approx((3 * 0.65 + 0.4, 4 * 0.65 + 0.25))
