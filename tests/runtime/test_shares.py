"""Who is ahead of its share."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.runtime.runs.shares import Shares
from tests.runtime.builders import Driver, assigned, plan, replica

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
