"""How much of the engines background calls may take."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from dask_fmware.policy import Bind, Park, Wait, create_policy
from dask_fmware.policy.leeway import FOR_URGENT, LEAST_KEPT, SPARE, Leeway
from dask_fmware.policy.slack import Slack
from dask_fmware.policy.typical import open_slots
from dask_fmware.testing.views import FAST, SLOW, call, draws, replica

CALL = call(submitted=10.0, runnable_at=10.0, deadline=12.0, own_s=0.5)
DUE = 12.0


def test_it_widens_while_urgent_calls_have_time_to_spare_up_to_nearly_all() -> None:
    leeway = Leeway()
    assert (leeway.kept, leeway.spare) == (FOR_URGENT, SPARE)
    seen = [leeway.kept]
    for _ in range(1000):
        leeway.bound(CALL, DUE, ends=11.0)
        seen.append(leeway.kept)
    assert seen == sorted(seen, reverse=True)
    assert (leeway.kept, leeway.spare) == (pytest.approx(LEAST_KEPT), inf)
    assert open_slots(replica("r", slots=8), leeway.kept) == 7, "an engine of eight slots keeps one for urgent calls"


def test_it_closes_while_urgent_calls_are_tight_or_lost() -> None:
    tight, lost = Leeway(), Leeway()
    for _ in range(40):
        tight.bound(CALL, DUE, ends=11.9)
        lost.lost(CALL, DUE)
    for leeway in (tight, lost):
        assert (leeway.kept, leeway.spare) == (pytest.approx(1.0), pytest.approx(0.0))


def test_calls_that_came_tight_or_late_say_nothing_of_what_runs_beside_them() -> None:
    leeway = Leeway()
    leeway.bound(call(submitted=10.0, runnable_at=11.4, deadline=12.0, own_s=0.5), DUE, ends=11.95)
    leeway.lost(call(submitted=10.0, runnable_at=11.8, deadline=12.0, own_s=0.5), DUE)
    assert leeway.width == 0.0


def test_a_call_is_tight_with_less_to_spare_than_it_takes_itself() -> None:
    """An answer of 20 ms that has 0.1 s to spare is in time, whatever its objective; a call of 0.5 s is not so sure."""
    short, long = Leeway(), Leeway()
    short.bound(call(submitted=10.0, runnable_at=10.0, deadline=12.0, own_s=0.02), DUE, ends=11.9)
    long.bound(call(submitted=10.0, runnable_at=10.0, deadline=12.0, own_s=0.5), DUE, ends=11.9)
    assert short.width > 0.0 > long.width


def test_it_widens_faster_until_the_first_urgent_call_is_tight() -> None:
    leeway = Leeway()
    for _ in range(50):
        leeway.bound(CALL, DUE, ends=11.0)
    assert leeway.width == 1.0
    leeway.bound(CALL, DUE, ends=11.95)
    narrowed = leeway.width
    leeway.bound(CALL, DUE, ends=11.0)
    assert 0.0 < leeway.width - narrowed < 0.01


def test_it_settles_where_two_urgent_calls_in_a_hundred_are_tight() -> None:
    def after(tight_of_hundred: int) -> float:
        leeway = Leeway()
        leeway.lost(CALL, DUE)
        for number in range(5000):
            leeway.bound(CALL, DUE, ends=11.95 if number % 100 < tight_of_hundred else 11.0)
        return leeway.width

    assert after(1) == pytest.approx(1.0, abs=0.1)
    assert after(4) < 0.0


def test_when_urgent_calls_have_stayed_away_background_calls_take_what_was_kept_for_them() -> None:
    """On engines of which urgent calls need all, a job starts when a pause is longer than its calls, about."""
    slack = create_policy("slack", draws())
    for number in range(40):  # four a second until 20.0, of which nearly each is lost
        urgent = call(f"u{number}", runnable_at=10 + number / 4, submitted=10 + number / 4, deadline=12 + number / 4)
        slack.order(urgent)
        latency = FAST if number == 30 else SLOW
        slack.choose(urgent, [replica(slots=4, latency=latency)], urgent.runnable_at)
    job, idle = call(output_tokens=1000.0, runnable_at=15.0), [replica(slots=4)]  # ten seconds
    waits = slack.choose(job, idle, 21.0)
    assert isinstance(waits, Wait)
    assert waits.until is not None
    assert waits.until < 40.0
    assert isinstance(slack.choose(job, idle, waits.until - 1.0), Wait)
    assert isinstance(slack.choose(job, idle, waits.until), Bind)


def _beside_urgent_calls(due_s: float = 1.0) -> Slack:
    """A policy that has seen ten urgent calls a second, each of 0.65 s on a fast replica and 3.2 s on a slow one."""
    slack = Slack()
    for number in range(30):
        at = 10 + number / 10
        slack.order(call(f"u{number}", runnable_at=at, submitted=at, deadline=at + due_s, own_s=0.65))
    return slack


JOB = call("job", runnable_at=12.0, output_tokens=100.0)


def test_a_job_beside_urgent_calls_takes_the_slowest_replica_first_and_the_quickest_when_alone() -> None:
    fleet = [replica("fast", slots=8), replica("slow", slots=8, latency=SLOW)]
    beside = _beside_urgent_calls(due_s=5.0).choose(JOB, fleet, 13.0)
    alone = Slack().choose(JOB, fleet, 13.0)
    assert (isinstance(beside, Bind), isinstance(alone, Bind)) == (True, True)
    assert (beside.replica_id, alone.replica_id) == ("tcp://slow", "tcp://fast")  # type: ignore[union-attr]


def test_a_job_may_make_a_replica_too_slow_for_urgent_calls_if_another_has_time_for_them() -> None:
    """With what runs on `full` an urgent call would take twice as long there."""
    full, free = replica("full", slots=8, running=2, stretch=2.0), replica("free", slots=8, running=4)
    slack = _beside_urgent_calls()
    assert slack.choose(JOB, [full, free], 13.0) == Bind("tcp://full", "no urgent call needs the replica", inf)
    assert isinstance(slack.choose(JOB, [full], 13.0), Wait)
    assert isinstance(slack.choose(JOB, [full, replace(free, running=5)], 13.0), Wait), "its other slots are kept"
    assert isinstance(slack.choose(JOB, [full, replace(free, stretch=2.0)], 13.0), Wait), "no time there either"


def test_the_slots_that_a_job_leaves_may_all_be_on_a_replica_that_urgent_calls_can_use() -> None:
    """At leeway 0 it leaves 0.4 of eight: three. A slow replica has no time for these urgent calls."""
    slack = _beside_urgent_calls()
    nearly, open_, slow = (
        replica("nearly", slots=8, running=7),
        replica("fast", slots=8, running=4),
        replica("fast", slots=8, running=4, latency=SLOW),
    )
    assert slack.choose(JOB, [nearly, open_], 13.0) == Bind("tcp://nearly", "no urgent call needs the replica", inf)
    assert isinstance(slack.choose(JOB, [nearly, replace(open_, running=5)], 13.0), Wait)
    assert isinstance(slack.choose(JOB, [nearly, replace(slow, running=5)], 13.0), Wait)


def test_a_job_that_waits_for_long_has_one_start_in_a_hundred_on_the_slowest_replica() -> None:
    fleet = [replica("fast", slots=8, running=5), replica("slow", slots=8, running=5, latency=SLOW)]
    slack, job, starts = _beside_urgent_calls(), replace(JOB, runnable_at=0.0), 0
    while not isinstance(choice := slack.choose(job, fleet, at := 13.0 + starts / 10), Bind):
        urgent = call(runnable_at=at, submitted=at, deadline=at + 0.7, own_s=0.65)  # as tight as it came
        slack.order(urgent)
        assert isinstance(slack.choose(urgent, fleet, at), Bind)
        starts += 1
    assert (starts, choice.replica_id, choice.reason) == (100, "tcp://slow", "it has waited for long")


def test_parked_calls_take_what_urgent_ones_cannot_use_in_time_by_what_is_believed() -> None:
    """A stall had taught that all is four times as slow: nothing ran, so nothing could teach otherwise."""
    slack = create_policy("slack", draws())
    idle = [replica(slots=4, stretch=4.0)]
    found = []
    for number in range(30):
        now = 10 + number / 4
        urgent = call(f"u{number}", runnable_at=now, submitted=now, deadline=now + 1.0, own_s=0.65)
        slack.order(urgent)
        assert isinstance(slack.choose(urgent, idle, now), Park)
        found.append(slack.choose(call("u0", runnable_at=10.0, deadline=11.0, parked=True), idle, now))
    assert all(isinstance(one, Wait) for one in found[2:18])
    assert all(isinstance(one, Bind) for one in found[20:])
