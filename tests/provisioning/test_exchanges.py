"""Models that hold the cards which others of them wait for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from dask_fmware.provisioning import ModelLoad, Planner, ReplicaNow, Step
from dask_fmware.provisioning.exchanges import Exchanges, Still
from dask_fmware.spec.provisioning import Provisioning
from tests.provisioning.builders import flow, inventory, ready, seen

IDLE_S = 60.0
A_LOAD_S = 30.0
A_DRAIN_S = 5.0


def planner(cards: int) -> Planner:
    options = Provisioning(idle_s=IDLE_S)
    speeds, prices = {"slow": 1.0, "fast": 4.0}, {"slow": 1.0, "fast": 2.0}
    return Planner(inventory(speeds, models=("a", "b"), cards=cards, prices=prices, load_s=A_LOAD_S), options)


def wrong_way_round(cards: int) -> tuple[ReplicaNow, ...]:
    """Model a, which needs fast cards, on all the slow ones."""
    of_a = (ready(f"a-slow-{i}", "slow", "a", running=1) for i in range(cards))
    of_b = (ready(f"b-fast-{i}", "fast", "b", running=1) for i in range(cards))
    return (*of_a, *of_b)


def played(cards: int, until_s: int) -> tuple[list[tuple[int, Step]], dict[str, ReplicaNow], Counter[str]]:
    """Steps with their times, the replicas at the end, and for how long each model had none that served."""
    made, there = planner(cards), {r.name: r for r in wrong_way_round(cards)}
    rates = (1.5, 1.5) if cards == 1 else (9.0 * cards, 2.0 * cards)
    flows = (flow(rates[0], model="a", slo_s=0.12), flow(rates[1], model="b", slo_s=5.0))
    steps: list[tuple[int, Step]] = []
    gaps: Counter[str] = Counter()
    for now in range(0, until_s, 4):
        for name, r in there.items():
            if r.state == "starting" and now - r.since >= A_LOAD_S:
                there[name] = replace(r, state="ready", since=float(now), running=1)
            elif r.state == "draining" and now - r.since >= A_DRAIN_S:
                there[name] = replace(r, running=0)
        busy = ModelLoad(running=1, last_call=float(now))
        plan = made.plan(seen(*flows, replicas=tuple(there.values()), a=busy, b=busy), float(now))
        for step in plan.steps:
            steps.append((now, step))
            if step.kind == "start":
                name = f"{step.model}-{step.accelerator}-{len(steps)}"
                there[name] = ready(name, step.accelerator, step.model, state="starting", since=float(now))
            elif step.kind == "stop":
                del there[step.replica]
            else:
                there[step.replica] = replace(there[step.replica], state="draining", since=float(now))
        assert all(n <= cards for n in Counter(r.accelerator for r in there.values()).values())
        serving = {r.model for r in there.values() if r.state == "ready"}
        gaps.update({model: 4 for model in ("a", "b") if model not in serving})
    return steps, there, gaps


@pytest.mark.parametrize("cards", [1, 2])
def test_two_models_on_each_other_s_cards_change_places_once(cards: int) -> None:
    steps, there, gaps = played(cards, 800)
    kinds = Counter((r.model, r.accelerator) for r in there.values() if r.state == "ready")
    assert kinds == {("a", "fast"): cards, ("b", "slow"): cards}
    assert len(steps) == 6 * cards  # of each of the replicas a swap, a stop and a start
    assert not [now for now, _ in steps if now > 500]
    if cards > 1:  # one serves all the time
        assert not gaps
    else:
        assert len(gaps) == 1
        assert steps[0][0] >= IDLE_S


def test_the_only_replica_of_a_model_stays_for_the_idle_period_and_the_reason_says_what_is_waited_for() -> None:
    made, there = planner(1), wrong_way_round(1)
    flows, busy = (flow(1.5, model="a", slo_s=0.12), flow(1.5, model="b", slo_s=5.0)), ModelLoad(running=1)
    begun = made.options.idle_s  # as long as a planner that is new lets nothing go
    for now in (0.0, begun, begun + IDLE_S - 1):
        plan = made.plan(seen(*flows, replicas=there, a=busy, b=busy), now)
        assert not plan.steps
    assert (
        "one on fast waits for the card of 'b-fast-0', which stays until other replicas of model 'b'"
        in (plan.reasons["a"])
    )
    assert "one of them gives way in 1 s" in plan.reasons["a"]
    [step] = made.plan(seen(*flows, replicas=there, a=busy, b=busy), begun + IDLE_S).steps
    assert step.kind == "swap"
    assert "each waited for the other's for 60 s" in step.reason


def test_a_replica_whose_next_has_a_place_or_will_have_one_is_left_alone() -> None:
    held = (ready("b-X", "X", "b"), ready("c-Y", "Y", "c"))
    loading = Still([("a", "X"), ("b", "Y")], held, [], {"b": 2, "c": 2}, {"c"})  # c waits for one that loads on Z
    assert Exchanges(0.0).choose(loading, 0.0) is None
    freed = Still([("a", "X"), ("b", "Y"), ("c", "Z")], held, ["Z"], {"b": 2, "c": 2}, [])
    assert Exchanges(0.0).choose(freed, 0.0) is None
    stuck = Still([("a", "X"), ("b", "Y"), ("c", "X")], held, [], {"b": 2, "c": 2}, [])
    found = Exchanges(1e9).choose(stuck, 0.0)
    assert found is not None
    assert found.replicas[0].name == "b-X"


def test_a_model_that_keeps_another_gives_way_before_one_that_does_not() -> None:
    held = (ready("a-X", "X", "a"), ready("b-Y", "Y", "b"))
    still = Still([("a", "Y"), ("b", "X")], held, [], {"a": 1, "b": 2}, [])
    found = Exchanges(0.0).choose(still, 0.0)
    assert found is not None
    assert (found.replicas[0].name, found.to) == ("b-Y", ("a", "Y"))
