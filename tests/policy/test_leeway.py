"""How much of the engines background calls may take."""

from __future__ import annotations

from math import inf

import pytest

from dask_fmware.policy import Bind, Park, Wait, create_policy
from dask_fmware.policy.leeway import FOR_URGENT, LEAST_KEPT, SPARE, Leeway
from tests.policy.views import FAST, SLOW, call, draws, replica

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


def test_it_settles_where_two_urgent_calls_in_a_hundred_are_tight() -> None:
    def after(tight_of_hundred: int) -> float:
        leeway = Leeway()
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
