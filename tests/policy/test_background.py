"""Which calls come first under `slack`, and what those behind may take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dask_fmware.policy import Bind, CallView, Choice, Wait
from dask_fmware.policy.slack import Slack
from dask_fmware.testing.views import call, replica

JOB = call("job", output_tokens=200.0)


def _served_first(*calls: CallView) -> list[str]:
    slack = Slack()
    return [one.call_id for one in sorted(calls, key=slack.order)]


def test_what_cannot_be_in_time_stands_behind_what_can_whatever_its_priority() -> None:
    """A job of high priority that waits for urgent calls to leave it room would otherwise hold up these very calls."""
    urgent = call("urgent", deadline=20.0, submitted=10.0)
    late = call("late", deadline=20.0, submitted=10.0, parked=True, priority=4)
    job = call("job", priority=5)
    assert _served_first(job, late, urgent) == ["urgent", "job", "late"]


def test_priority_orders_those_in_time_among_themselves_and_those_behind() -> None:
    urgent = [call(f"u{p}", deadline=20.0, submitted=10.0, priority=p) for p in (0, 5)]
    late = [call(f"l{p}", deadline=20.0, submitted=10.0, priority=p, parked=True) for p in (0, 5)]
    jobs = [call(f"j{p}", priority=p) for p in (0, 5)]
    assert _served_first(*urgent, *late, *jobs) == ["u5", "u0", "l5", "j5", "l0", "j0"]


def test_a_run_under_way_comes_before_fresh_ones_until_it_has_half_of_its_objective_to_spare() -> None:
    """A run of ten minutes with hundreds of calls would otherwise pass every run of a second."""
    fresh = call("fresh", submitted=100.0, runnable_at=100.0, deadline=101.0, own_s=0.1)
    begun = call("begun", submitted=50.0, runnable_at=100.0, deadline=150.0, own_s=1.0, begun=True)
    assert _served_first(fresh, begun) == ["begun", "fresh"], "49 s of its 100 s to spare"
    assert _served_first(fresh, replace(begun, own_s=0.0, deadline=151.0)) == ["fresh", "begun"], "51 s of its 101 s"
    assert _served_first(fresh, replace(begun, own_s=3.0, deadline=160.0)) == ["begun", "fresh"], "57 s for 3 s"


def _beside_urgent_calls(rate: float, count: int = 30) -> Slack:
    """A policy that has seen urgent calls of 0.65 s at a rate, until 10.0."""
    slack = Slack()
    for number in range(count):
        at = 10.0 - (count - 1 - number) / rate
        slack.order(call(f"u{number}", runnable_at=at, submitted=at, deadline=at + 2.0, own_s=0.65))
    return slack


def _chosen(slack: Slack, idle: int, busy: int) -> Choice:
    fleet = [replica(f"i{n}") for n in range(idle)] + [replica(f"x{n}", running=1) for n in range(busy)]
    return slack.choose(JOB, fleet, 10.0)


def test_a_job_takes_one_of_many_cards_of_one_call_each_while_enough_others_are_idle() -> None:
    """At ten calls of 0.65 s a second 6.5 cards are busy; twice the root of that are kept besides: 11.6."""
    slack = _beside_urgent_calls(10.0)
    assert isinstance(_chosen(slack, idle=13, busy=3), Bind)
    assert isinstance(_chosen(slack, idle=12, busy=4), Wait)


def test_the_last_idle_card_is_left_to_urgent_calls_however_few_they_are() -> None:
    slack = _beside_urgent_calls(0.5)
    assert isinstance(_chosen(slack, idle=3, busy=9), Bind)
    assert isinstance(_chosen(slack, idle=1, busy=11), Wait)


@pytest.mark.parametrize(("due_s", "bound"), [(0.7, True), (1.0, False), (3.0, True)])
def test_urgent_calls_that_are_in_time_by_luck_alone_keep_nothing_from_others(due_s: float, bound: bool) -> None:
    """Of 0.65 s each: with 0.7 s they have nothing to lose, with 1.0 s little, with 3.0 s enough."""
    slack = Slack()
    for number in range(30):
        at = 10 + number / 10
        slack.order(call(f"u{number}", runnable_at=at, submitted=at, deadline=at + due_s, own_s=0.65))
    late = call("late", runnable_at=12.0, submitted=9.0, deadline=10.0, parked=True)
    busy = replica("a", slots=8, running=2, stretch=1.2)
    assert isinstance(slack.choose(late, [busy], 13.0), Bind if bound else Wait)
