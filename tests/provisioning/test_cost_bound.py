"""The price of all cards together is bounded: what is there may stay, and nothing starts beyond the bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.provisioning import ModelLoad, Plan, Planner, ReplicaNow, WorkflowDemand
from dask_fmware.spec.provisioning import Provisioning
from tests.provisioning.builders import flow, inventory, ready, seen

LOAD_S, DRAIN_S = 10.0, 3.0
IDLE_S = 20.0
FEW, MANY = 0.2, 60.0  # calls a second: of one replica, and of more than there is money for


class Cards:
    """Does what a planner says: replicas load, serve, drain and go. What starts must keep the bound."""

    def __init__(self, planner: Planner, there: Iterable[ReplicaNow] = ()) -> None:
        self.planner = planner
        self.there = {r.name: r for r in there}
        self.starts: list[tuple[float, str]] = []  # when, and of which model

    @property
    def kinds(self) -> Counter[tuple[str, str]]:
        return Counter((r.model, r.accelerator) for r in self.there.values())

    def look(self, now: float, *flows: WorkflowDemand) -> Plan:
        for name, r in self.there.items():
            if r.state == "starting" and now - r.since >= LOAD_S:
                self.there[name] = replace(r, state="ready", since=now, running=1)
            elif r.state == "draining" and now - r.since >= DRAIN_S:
                self.there[name] = replace(r, running=0)
        loads = {f.nodes[0].model or "": ModelLoad(running=1, last_call=now) for f in flows}
        plan = self.planner.plan(seen(*flows, replicas=tuple(self.there.values()), **loads), now)
        begun = Counter((step.model, step.accelerator) for step in plan.steps if step.kind == "start")
        most = self.planner.options.max_cost_per_hour or 0.0
        assert not begun or self.planner.inventory.cost_per_hour(self.kinds + begun) <= most + 1e-6
        for step in plan.steps:
            if step.kind == "start":
                name = f"{step.model}-{step.accelerator}-{now:g}-{len(self.starts)}"
                self.there[name] = ready(name, step.accelerator, step.model, "starting", since=now)
                self.starts.append((now, step.model))
            elif step.kind == "stop":
                del self.there[step.replica]
            else:
                state = "ready" if step.kind == "resume" else "draining"
                self.there[step.replica] = replace(self.there[step.replica], state=state, since=now)
        return plan


def planner(**more: object) -> Planner:
    options = Provisioning.model_validate({"max_cost_per_hour": 4.0, "idle_s": IDLE_S, "cool_down_s": 0, **more})
    return Planner(inventory(cards=20, models=("a", "b"), load_s=LOAD_S), options)


def of_a(count: int) -> list[ReplicaNow]:
    return [ready(f"a-{i}", model="a", running=1) for i in range(count)]


def test_nothing_starts_beyond_the_bound_while_replicas_stay_that_the_mix_does_without() -> None:
    cards, flows = Cards(planner(), of_a(4)), (flow(FEW, model="a"), flow(MANY, model="b"))
    first = cards.look(0.0, *flows)
    assert not first.steps
    waits = "3 more on slow as soon as other cards go: those that are there cost 4 of max_cost_per_hour=4"
    assert waits in first.reasons["b"]
    assert cards.look(IDLE_S - 1, *flows).desired["a", "slow"] == 4
    assert [step.kind for step in cards.look(IDLE_S, *flows).steps] == ["swap"] * 3
    for now in range(int(IDLE_S) + 1, 60):
        cards.look(float(now), *flows)
    assert cards.kinds == {("a", "slow"): 1, ("b", "slow"): 3}
    assert not cards.look(60.0, *flows).steps


def test_a_model_that_cools_down_keeps_its_cards_and_the_other_starts_when_they_have_gone() -> None:
    cards = Cards(planner(cool_down_s=30))
    for now in range(100):
        cards.look(float(now), flow(FEW, model="a"))
    for now in range(100, 110):
        cards.look(float(now), flow(MANY, model="a"))
    assert cards.kinds == {("a", "slow"): 4}
    for now in range(110, 200):
        cards.look(float(now), flow(FEW, model="a"), flow(MANY, model="b"))
    last_of_a = max(now for now, model in cards.starts if model == "a")
    first_of_b = min(now for now, model in cards.starts if model == "b")
    assert first_of_b >= last_of_a + 30
    assert cards.kinds == {("a", "slow"): 1, ("b", "slow"): 3}


def test_the_bound_holds_for_what_is_asked_for_by_hand() -> None:
    made = planner(mode="manual")
    made.wanted = {("a", "slow"): 3, ("b", "slow"): 3}
    plan = Cards(made).look(0.0)
    assert Counter(step.model for step in plan.steps) == {"a": 3, "b": 1}
    assert plan.reasons["b"].startswith("asked for by hand; 2 more on slow as soon as other cards go")


def test_a_mix_is_changed_without_a_gap_where_some_cards_pay_for_the_next() -> None:
    """Two slow cards cost 2, a quick one 3."""
    cards = Cards(changing(), [ready(f"m-{i}", running=1) for i in range(2)])
    for now in range(120):
        cards.look(float(now), flow(1.5, slo_s=0.12))
        assert any(r.state == "ready" for r in cards.there.values())
    assert cards.kinds == {("m", "fast"): 1}


def test_a_model_s_only_replica_stays_for_the_idle_period_before_it_pays_for_the_next() -> None:
    cards = Cards(changing(max_cost_per_hour=3.0), [ready("m-0", running=1)])
    plans = {now: cards.look(float(now), flow(1.5, slo_s=0.12)) for now in range(120)}
    begun = int(IDLE_S)  # as long as a planner that is new lets nothing go
    assert not any(plans[now].steps for now in range(begun + int(IDLE_S)))
    assert "one on fast waits for the card of 'm-0'" in plans[begun].reasons["m"]
    [drain] = plans[begun + int(IDLE_S)].steps
    assert (drain.kind, drain.replica) == ("drain", "m-0")
    assert "its card pays for one on fast: each waited for the other's for 20 s" in drain.reason
    assert cards.kinds == {("m", "fast"): 1}


def changing(**more: object) -> Planner:
    """Of one model, whose calls need another card than the one that it has."""
    options = {"max_cost_per_hour": 4.0, "idle_s": IDLE_S, "cool_down_s": 0, **more}
    cards = inventory({"slow": 1.0, "fast": 4.0}, prices={"slow": 1.0, "fast": 3.0}, load_s=LOAD_S)
    return Planner(cards, Provisioning.model_validate(options))


@pytest.mark.slow
@settings(max_examples=10)
@given(
    there=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["slow", "fast"])), max_size=8),
    rates=st.lists(st.tuples(st.floats(0.1, 40.0), st.floats(0.1, 40.0)), min_size=1, max_size=3),
    most=st.floats(2.5, 9.0),
    cool_down_s=st.sampled_from([0, 12]),
)
def test_whatever_there_is_and_comes_no_start_costs_too_much(
    there: list[tuple[str, str]], rates: list[tuple[float, float]], most: float, cool_down_s: int
) -> None:
    options = Provisioning(max_cost_per_hour=most, idle_s=IDLE_S, cool_down_s=cool_down_s)
    types = inventory({"slow": 1.0, "fast": 4.0}, prices={"slow": 1.0, "fast": 2.5}, models=("a", "b"), load_s=LOAD_S)
    cards = Cards(Planner(types, options), [ready(f"r-{i}", on, of, running=1) for i, (of, on) in enumerate(there)])
    for number, (a, b) in enumerate(rates):
        for now in range(60 * number, 60 * number + 60, 4):
            cards.look(float(now), flow(a, model="a"), flow(b, model="b"))


@pytest.mark.parametrize("mode", ["simple", "queue_length"])
def test_a_start_that_has_to_wait_for_money_waits_for_nothing_else(mode: str) -> None:
    made = Planner(inventory(models=("a", "b")), Provisioning.model_validate({"mode": mode, "max_cost_per_hour": 2.0}))
    drains, serves = ready("a-0", model="a", state="draining", running=1), ready("b-0", model="b", running=1)
    late = ModelLoad(held=50, running=1, ended=20, missed=20)
    for now in (0.0, 31.0, 32.0):
        assert not made.plan(seen(replicas=(drains, serves), b=late), now).steps
    assert [step.kind for step in made.plan(seen(replicas=(serves,), b=late), 33.0).steps] == ["start"]


@pytest.mark.parametrize("mode", ["simple", "queue_length"])
def test_a_drained_replica_costs_until_it_has_gone(mode: str) -> None:
    options = {"mode": mode, "upscale_delay_s": 0, "max_cost_per_hour": 1.0}
    made = Planner(inventory(models=("a", "b")), Provisioning.model_validate(options))
    drains, waits = ready("a-0", model="a", state="draining", running=1), ModelLoad(held=5)
    assert not made.plan(seen(replicas=(drains,), b=waits), 0.0).steps
    assert [step.kind for step in made.plan(seen(b=waits), 1.0).steps] == ["start"]
