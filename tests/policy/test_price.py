"""What dear runs leave to cheap ones, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.policy.price import NEARLY_ALL, Price
from dask_fmware.policy.protocol import Bind, Wait
from dask_fmware.policy.slack import Slack
from dask_fmware.simulation.run import play
from dask_fmware.simulation.scenario import PoissonArrivals, load_scenario
from dask_fmware.testing.views import call, replica

SCENARIOS = Path(__file__).parents[2] / "benchmarks" / "scenarios"
CHEAP, DEAR = 0.5, 2.0


def priced(*, lost: float = 0.0, in_time: float = 0.0, times: int = 50) -> Price:
    price = Price()
    for cost_s in (CHEAP, DEAR) * 20:
        price.came(cost_s)
    for _ in range(times):
        if lost:
            price.lost(lost)
        if in_time:
            price.bound(in_time)
    return price


def test_nothing_is_kept_while_no_cheap_run_is_lost() -> None:
    assert priced(lost=DEAR, in_time=CHEAP).kept(DEAR) == 0.0


def test_dear_runs_leave_room_to_cheap_ones_that_are_lost() -> None:
    price = priced(lost=CHEAP)
    assert price.kept(DEAR) == pytest.approx(0.5 * price.level)
    assert price.kept(CHEAP) == 0.0


def test_what_was_kept_is_given_back_when_cheap_runs_are_in_time() -> None:
    price = priced(lost=CHEAP)
    for _ in range(5000):
        price.bound(CHEAP)
    assert price.kept(DEAR) == 0.0


def test_runs_of_equal_cost_have_no_price() -> None:
    price = Price()
    for _ in range(200):
        price.came(1.0)
        price.lost(1.0)
    assert price.level == price.kept(1.0) == 0.0


def test_costs_are_those_of_late() -> None:
    price = priced(lost=CHEAP)
    for _ in range(100):
        price.came(DEAR)
    assert price.kept(DEAR) == 0.0
    assert price.relative(DEAR) == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.sampled_from(["came", "lost", "bound"]), st.floats(0, 1e3)), max_size=200), st.floats(0, 1e3)
)
def test_an_idle_replica_takes_any_run(history: list[tuple[str, float]], cost_s: float) -> None:
    price = Price()
    price.came(1.0)
    for what, size in history:
        getattr(price, what)(size)
    assert 0.0 <= price.kept(cost_s) <= NEARLY_ALL


def overloaded(tenant: str = "default") -> Slack:
    """A policy that has lost cheap runs of a tenant, as they came when no replica could be in time."""
    slack = Slack()
    full = [replica(slots=8, running=8, slot_free_at=99.0)]
    for number in range(60):
        for cost_s in (CHEAP, DEAR):
            late = call(f"{cost_s}-{number}", tenant=tenant, deadline=12.0, own_s=1.0, run_s=cost_s)
            slack.order(late)
            slack.choose(late, full, 10.0)
    one_slot = [replica(slots=8, running=7)]
    for number in range(100):
        slack.choose(call(f"lost-{number}", tenant=tenant, deadline=10.5, own_s=0.4, run_s=CHEAP), one_slot, 10.0)
    return slack


def test_the_last_slots_are_for_cheap_runs() -> None:
    slack, nearly_full = overloaded(), [replica(slots=8, running=7)]
    due = 20.0
    assert isinstance(slack.choose(call("a", deadline=due, own_s=0.6, run_s=CHEAP), nearly_full, 10.0), Bind)
    assert isinstance(slack.choose(call("b", deadline=due, own_s=0.6, run_s=DEAR), nearly_full, 10.0), Wait)
    begun = call("c", deadline=due, own_s=0.6, run_s=DEAR, begun=True)
    assert isinstance(slack.choose(begun, nearly_full, 10.0), Bind)
    assert isinstance(slack.choose(call("d", deadline=due, own_s=0.6, run_s=DEAR), [replica(slots=8)], 10.0), Bind)


@pytest.mark.parametrize("apart", [{"tenant": "other"}, {"tenant": "one", "priority": 5}])
def test_another_tenant_or_priority_pays_no_price(apart: dict[str, object]) -> None:
    slack, nearly_full = overloaded("one"), [replica(slots=8, running=7)]
    other = call("a", deadline=20.0, own_s=0.6, run_s=DEAR, **apart)
    slack.order(other)
    assert isinstance(slack.choose(other, nearly_full, 10.0), Bind)


def test_cheap_runs_are_served_first_only_where_they_were_lost() -> None:
    early, late = call("a", deadline=20.0, own_s=1.0, run_s=DEAR), call("b", deadline=20.1, own_s=1.0, run_s=CHEAP)
    fresh, slack = Slack(), overloaded()
    assert fresh.order(early) < fresh.order(late)
    assert slack.order(late) < slack.order(early)


def test_more_runs_are_in_time_under_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario(SCENARIOS / "batching2.yaml")
    scenario = scenario.model_copy(update={"arrivals": PoissonArrivals(kind="poisson", duration_s=12.0)})
    with_it = play(scenario, "slack", 1, 36.0)
    monkeypatch.setattr("dask_fmware.policy.price.DEARER", 0.0)
    without = play(scenario, "slack", 1, 36.0)
    assert with_it.goodput > without.goodput + 0.04
    assert with_it.runs == without.runs
