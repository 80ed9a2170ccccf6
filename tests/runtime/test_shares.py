"""Who is ahead of its share."""

from __future__ import annotations

from math import fsum, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.model.plan import Objective
from dask_fmware.runtime.runs.shares import ASKED, AWAY, MOST_AWAY_S, Level, Shares, _Asked
from tests.runtime.builders import Driver, assigned, plan, replica
from tests.runtime.counting import lines_of

LEVEL = 0, True  # ordinary priority, with a deadline


def test_a_tenant_alone_is_never_ahead() -> None:
    shares = Shares()
    for now in range(5):
        assert shares.submitted("a", LEVEL, 1.0, float(now)) == 0.0
        shares.given("a", LEVEL, 100.0)


def test_who_was_given_more_is_ahead_by_the_difference_over_the_weight() -> None:
    shares = Shares({"heavy": 4.0})
    for tenant in ("heavy", "light"):
        shares.submitted(tenant, LEVEL, 1.0, 0.0)
    for tenant in ("heavy", "light"):
        shares.given(tenant, LEVEL, 2.0)
    assert shares.submitted("heavy", LEVEL, 1.0, 0.0) == 0.0
    assert shares.submitted("light", LEVEL, 1.0, 0.0) == pytest.approx(2.0 - 2.0 / 4.0)


def test_who_comes_back_is_level_with_the_least_served() -> None:
    shares = Shares()
    shares.submitted("a", LEVEL, 1.0, 0.0)
    shares.given("a", LEVEL, 50.0)
    assert shares.submitted("b", LEVEL, 1.0, 5.0) == 0.0
    shares.given("b", LEVEL, 1.0)
    assert shares.submitted("a", LEVEL, 1.0, 5.0) == 0.0
    assert shares.submitted("b", LEVEL, 1.0, 5.0) == pytest.approx(1.0)


def test_who_asks_for_nothing_any_more_claims_no_share() -> None:
    shares = Shares()
    shares.submitted("gone", LEVEL, 1.0, 0.0)
    shares.submitted("a", LEVEL, 1.0, 0.0)
    shares.given("a", LEVEL, 9.0)
    assert shares.submitted("a", LEVEL, 1.0, 9.0) == pytest.approx(9.0)
    assert shares.submitted("a", LEVEL, 1.0, 11.0) == 0.0


def test_who_has_objectives_of_centuries_claims_a_share_for_a_day() -> None:
    shares = Shares()
    shares.submitted("gone", LEVEL, 3e11, 0.0)
    shares.submitted("a", LEVEL, 1.0, MOST_AWAY_S + 1.0)
    assert set(shares._levels[LEVEL].of) == {"a"}


def test_who_asks_for_no_more_than_its_share_is_never_ahead() -> None:
    shares = Shares({"small": 1.0, "big": 3.0})

    def submitted(tenant: str, now: float, seconds: float) -> float:
        return shares.submitted(tenant, LEVEL, 10.0, now, {"m": seconds}, lambda _: 4.0)

    for second in range(100):  # a quarter of four cards is one
        submitted("small", float(second), 0.8)
        shares.given("small", LEVEL, 0.8)
        submitted("big", float(second), 30.0)
    assert submitted("small", 100.0, 0.8) == 0.0
    for second in range(100, 200):
        submitted("small", float(second), 1.6)
        submitted("big", float(second), 30.0)
    assert submitted("small", 200.0, 1.6) > 0.0


def test_what_is_asked_of_one_model_is_held_against_its_own_replicas() -> None:
    shares = Shares()
    for tenant in ("a", "b"):
        shares.submitted(tenant, LEVEL, 1.0, 0.0)
    shares.given("a", LEVEL, 5.0)
    cards = {"rare": 1.0, "common": 50.0}
    assert shares.submitted("a", LEVEL, 1.0, 0.0, {"common": 40.0}, cards.__getitem__) == 0.0
    assert shares.submitted("a", LEVEL, 1.0, 0.0, {"rare": 4.0}, cards.__getitem__) == pytest.approx(5.0)


def test_a_job_without_a_deadline_has_no_claim_against_urgent_runs() -> None:
    shares, background = Shares(), (-100, False)
    shares.submitted("job", background, 1.0, 0.0)
    shares.submitted("users", LEVEL, 1.0, 0.0)
    shares.given("users", LEVEL, 50.0)
    assert shares.submitted("users", LEVEL, 1.0, 0.0) == 0.0
    shares.given("job", background, 500.0)
    assert shares.submitted("job", LEVEL, 1.0, 0.0) == 0.0
    assert shares.submitted("users", LEVEL, 1.0, 0.0) == 0.0


def test_a_run_of_the_tenant_that_was_given_less_is_served_before_one_that_waits_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dask_fmware.runtime.runs.shares.ASKED", 0.001)  # so that each asks for more than its share
    d = Driver("slack")
    d.ready(replica("a", slots=1), replica("b", slots=1), *[replica(f"c{n}", "large", slots=2) for n in range(9)])
    objective = Objective(ttft_s=100.0)

    def start(run_id: str, tenant: str):
        made = plan(run_id, objective=objective)
        made = type(made)(**{f: getattr(made, f) for f in made.__slots__} | {"tenant": tenant})
        return assigned([*d.submit(made), *d.runnable(run_id)])

    assert start("x0", "much") == [("x0", "tcp://a", 1)]
    assert start("y0", "little") == [("y0", "tcp://b", 1)]
    d.end("y0")
    for n in (3, 4):  # "little" came level with "much" and was given one call; now that makes three to one
        assert start(f"x{n}", "much") == [(f"x{n}", "tcp://b", 1)]
        d.end(f"x{n}")
    assert start("x1", "much") == [("x1", "tcp://b", 1)]
    assert start("x2", "much") == start("y1", "little") == []
    assert assigned(d.end("x0")) == [("y1", "tcp://a", 1)]
    assert assigned(d.end("x1")) == [("x2", "tcp://b", 1)]


class Plain:
    """The same, by a look at every account for each run."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.sums: dict[tuple[Level, str], float] = {}
        self.asked: dict[tuple[Level, str], _Asked] = {}
        self.until: dict[tuple[Level, str], float] = {}

    def submitted(
        self, tenant: str, level: Level, objective_s: float, now: float, work_s: dict[str, float], capacity
    ) -> float:
        mine = level, tenant
        for other in [other for other, until in self.until.items() if until < now]:
            del self.until[other], self.sums[other], self.asked[other]
        least = min((had for other, had in self.sums.items() if other != mine and other[0] == level), default=inf)
        if mine not in self.until:
            self.sums[mine] = least if least < inf else 0.0
            self.asked[mine] = _Asked(now)
        self.until[mine] = max(self.until.get(mine, 0.0), now + AWAY * objective_s)
        asked, over_s = self.asked[mine], ASKED * objective_s
        asked.add(work_s, over_s, now)
        if least == inf or self.sums[mine] <= least:
            return 0.0
        weights = fsum(self.weights.get(other, 1.0) for of, other in self.until if of == level)
        if work_s and asked.is_within(self.weights.get(tenant, 1.0) / weights, over_s, capacity):
            return 0.0
        return self.sums[mine] - least

    def given(self, tenant: str, level: Level, card_seconds: float) -> None:
        if (level, tenant) in self.sums:
            self.sums[level, tenant] += card_seconds / self.weights.get(tenant, 1.0)


TENANTS, LEVELS = st.sampled_from("abcde"), st.sampled_from([LEVEL, (0, False), (5, True)])
SECONDS = st.sampled_from([0.0, 0.1, 0.3, 1.0, 7.0])
STEPS = st.lists(st.tuples(TENANTS, LEVELS, SECONDS, st.none() | SECONDS, st.sampled_from([-3.0, 0.0, 0.2, 4.0, 30.0])))


@settings(max_examples=200)
@given(STEPS, st.dictionaries(TENANTS, st.sampled_from([0.1, 0.3, 2.0])))
def test_shares_are_those_of_a_look_at_every_account(steps, weights: dict[str, float]) -> None:
    shares, plain, now = Shares(weights), Plain(weights), 100.0
    for tenant, level, seconds, work_s, later_s in steps:
        now += later_s  # the clock may be set back
        asked = {} if work_s is None else {"m": work_s}
        told = tenant, level, seconds, now, asked, lambda _: 2.0
        assert shares.submitted(*told) == plain.submitted(*told)
        for one in (shares, plain):
            one.given(tenant, level, 0.7 * seconds)
            one.given("a", LEVEL, 0.1)
    assert {(level, tenant) for level, of in shares._levels.items() for tenant in of.of} == set(plain.until)
    assert len(shares._claims) == len(plain.until)


def test_a_run_is_taken_note_of_as_fast_with_thousands_of_tenants() -> None:
    shares = Shares()

    def play(numbers: range) -> None:
        for number in numbers:
            shares.submitted(f"t{number}", LEVEL, 100.0, 0.0)
            shares.given(f"t{number}", LEVEL, float(number))

    few = lines_of(lambda: play(range(100)))
    play(range(100, 4900))
    many = lines_of(lambda: play(range(4900, 5000)))
    assert many < 1.1 * few
    assert shares.submitted("t7", LEVEL, 100.0, 1.0) == 7.0
