from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import ceil, inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.provisioning.capacity import CallClass, bearing
from dask_fmware.provisioning.demand import call_classes, unloaded_s
from dask_fmware.provisioning.inventory import CardType, Inventory
from dask_fmware.provisioning.mix import cheapest_mix
from dask_fmware.provisioning.sizing import size, together
from dask_fmware.provisioning.views import NodeDemand, WorkflowDemand
from dask_fmware.spec.provisioning import Bounds, Provisioning
from tests.provisioning.builders import flow, inventory

OPTIONS = Provisioning()


@settings(max_examples=25)
@example(rate=36.9921875, prices=(1.0, 1.0))  # five replicas are short of a tenth of a thousandth of one
@given(
    rate=st.floats(0.5, 40.0),
    prices=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 6.0)),
)
def test_mix_is_as_cheap_as_an_exhaustive_search_finds(rate: float, prices: tuple[float, float]) -> None:
    cards = inventory({"slow": 1.0, "fast": 3.0}, prices={"slow": prices[0], "fast": prices[1]}, cards=12)
    classes = call_classes([flow(rate)], cards)
    rates = [bearing(cards.kinds["m", name], classes[0]).rate for name in ("slow", "fast")]
    best = min(
        (
            a * prices[0] + b * prices[1] + 0.1 * (a * prices[0] + b * prices[1])
            for a, b in product(range(13), repeat=2)
            if a * rates[0] + b * rates[1] >= rate
        ),
        default=None,
    )
    mix = cheapest_mix(cards, classes, OPTIONS)
    if best is None:
        assert mix.unserved
    else:
        assert not mix.unserved
        assert 1.1 * mix.cost_per_hour <= best * 1.006 + 1e-6


@settings(max_examples=25)
@given(rates=st.tuples(st.floats(0.0, 12.0), st.floats(0.0, 12.0)), least=st.integers(0, 4))
def test_where_each_model_has_one_kind_of_card_the_programme_finds_nothing_cheaper(
    rates: tuple[float, float], least: int
) -> None:
    options = Provisioning(models={"a": Bounds(min_replicas=least)})
    one = inventory(cards=30, models=("a", "b"))
    spare = inventory({"slow": 1.0, "useless": 1.0}, prices={"slow": 1.0, "useless": 1e3}, cards=30, models=("a", "b"))
    classes = [
        call
        for model, rate in zip(("a", "b"), rates, strict=True)
        for call in call_classes([flow(rate, model=model)], one)
    ]
    direct, solved = cheapest_mix(one, classes, options), cheapest_mix(spare, classes, options)
    assert not solved.unserved
    assert direct.cost_per_hour <= solved.cost_per_hour + 1e-6
    assert direct.replicas["a", "slow"] >= least
    for model, rate in zip(("a", "b"), rates, strict=True):
        for call in (c for c in classes if c.model == model):
            assert direct.replicas[model, "slow"] * bearing(one.kinds[model, "slow"], call).rate >= rate - 1e-6


def test_sizes_of_requests_go_to_the_cards_that_suit_them() -> None:
    cards = inventory({"slow": 1.0, "fast": 4.0}, prices={"slow": 0.8, "fast": 5.0}, cards=50)
    small = flow(20.0, name="chat", prompt=100, output=40, slo_s=1.0)
    large = flow(2.0, name="document", prompt=6000, output=200, slo_s=0.8)  # 1.2 s on a slow card
    mixed = cheapest_mix(cards, call_classes([small, large], cards), OPTIONS)
    assert mixed.replicas["m", "slow"] > 0
    assert mixed.replicas["m", "fast"] > 0
    alone = cheapest_mix(
        inventory({"fast": 4.0}, prices={"fast": 5.0}, cards=50), call_classes([small, large], cards), OPTIONS
    )
    assert mixed.cost_per_hour < alone.cost_per_hour


def test_bounds_and_cards_hold_for_any_load() -> None:
    options = Provisioning(models={"a": Bounds(min_replicas=2, max_replicas=3), "b": Bounds(max_replicas=1)})
    cards = inventory(cards=4, models=("a", "b"))
    for rate in (0.0, 1.0, 1000.0):
        flows = [flow(rate, model="a"), flow(rate, model="b")] if rate else []
        mix = cheapest_mix(cards, call_classes(flows, cards), options)
        assert 2 <= mix.replicas["a", "slow"] <= 3
        assert mix.replicas["b", "slow"] <= 1


def test_few_calls_on_a_quick_replica_are_worth_a_card() -> None:
    cards = inventory({"quick": 500.0}, prices={"quick": 9.0})
    for rate in (1.0, 1e-3, 1e-9):
        mix = cheapest_mix(cards, call_classes([flow(rate)], cards), OPTIONS)
        assert mix.replicas["m", "quick"] == 1
        assert not mix.unserved


def test_a_cost_limit_leaves_calls_unserved_rather_than_failing() -> None:
    cards = inventory(cards=20)
    mix = cheapest_mix(cards, call_classes([flow(100.0)], cards), Provisioning(max_cost_per_hour=3.5))
    assert mix.replicas["m", "slow"] == 3
    assert mix.unserved


@pytest.mark.parametrize(("most_per_hour", "replicas"), [(3.5, 6), (1.9, 2), (0.9, 0), (60.5, 120), (60.0, 120)])
def test_the_bound_of_the_cost_counts_a_card_whole_however_few_replicas_are_on_it(
    most_per_hour: float, replicas: int
) -> None:
    cards = inventory(cards=200, per_card=2, models=("a", "b"))
    classes = call_classes([flow(2000.0, model="a"), flow(2000.0, model="b")], cards)
    mix = cheapest_mix(cards, classes, Provisioning(max_cost_per_hour=most_per_hour))
    made = sum(mix.replicas.values())
    assert (replicas if replicas < 40 else replicas - 2) <= made <= replicas  # many are rounded
    assert mix.cost_per_hour == ceil(made / 2) <= most_per_hour
    one = cheapest_mix(cards, call_classes([flow(0.1, model="a")], cards), OPTIONS)
    assert one.cost_per_hour == 1.0  # half a card cannot be rented


@pytest.mark.parametrize(("replicas", "cheapest"), [(1, {"own": 1}), (2, {"shared": 2}), (5, {"own": 1, "shared": 4})])
def test_a_card_costs_what_it_costs_however_few_replicas_are_on_it(replicas: int, cheapest: dict[str, int]) -> None:
    made = inventory({"own": 1.0, "shared": 1.0}, prices={"own": 2.5, "shared": 4.0})
    kind = replace(made.kinds["m", "shared"], price_per_hour=1.0)
    cards = Inventory(
        {**made.cards, "shared": replace(made.cards["shared"], replicas_per_card=4)}, {**made.kinds, kind.key: kind}
    )
    one = bearing(kind, call_classes([flow(1.0)], cards)[0]).rate
    mix = cheapest_mix(cards, call_classes([flow((replicas - 0.5) * one)], cards), OPTIONS)
    assert {on: count for (_, on), count in mix.replicas.items() if count} == cheapest
    assert mix.cost_per_hour == sum(2.5 if on == "own" else 4.0 for on in cheapest)


def test_a_model_that_is_short_of_cards_leaves_the_mix_of_another_as_it_is() -> None:
    base = inventory({"X": 1.0, "Y": 1.0, "Z": 1.7}, models=("a", "b"))
    cards = {"X": CardType("X", 1), "Y": CardType("Y", 20), "Z": CardType("Z", 20, price_per_hour=1.6)}
    kinds = {key: base.kinds[key] for key in (("a", "X"), ("b", "Y"), ("b", "Z"))}
    apart = Inventory(
        cards, {key: replace(kind, price_per_hour=cards[key[1]].price_per_hour) for key, kind in kinds.items()}
    )
    mixes = []
    for rate in (0.5, 50.0):  # of a, which has one card
        current: dict[tuple[str, str], int] = {}
        mixes.append([])
        for other in (30.0, 29.5, 30.5, 30.0):
            classes = call_classes([flow(rate, model="a"), flow(other, model="b")], apart)
            mix = cheapest_mix(apart, classes, OPTIONS, current=current)
            assert (0 in mix.unserved) == (rate == 50.0)
            assert 1 not in mix.unserved
            current = dict(mix.replicas)
            mixes[-1].append(current)
    assert mixes[0] == mixes[1]


def test_what_runs_is_kept_where_another_mix_would_hardly_be_cheaper() -> None:
    cards = inventory({"left": 1.0, "right": 1.0}, prices={"left": 1.0, "right": 0.97})
    classes = call_classes([flow(5.0)], cards)
    fresh = cheapest_mix(cards, classes, OPTIONS)
    assert fresh.replicas["m", "left"] == 0
    kept = cheapest_mix(cards, classes, OPTIONS, current={("m", "left"): fresh.replicas["m", "right"]})
    assert kept.replicas["m", "right"] == 0


def test_a_barred_kind_does_not_grow_and_another_card_is_taken() -> None:
    cards = inventory({"slow": 1.0, "fast": 3.0})
    classes = call_classes([flow(3.0)], cards)
    barred = frozenset({("m", "slow")})
    mix = cheapest_mix(cards, classes, OPTIONS, barred=barred)
    assert mix.replicas["m", "slow"] == 0
    assert mix.replicas["m", "fast"] > 0


def test_a_larger_quantile_needs_no_fewer_replicas() -> None:
    cards = inventory(cards=200)
    classes = call_classes([flow(20.0, slo_s=0.8)], cards)
    counts = [
        size(cards, classes, Provisioning(quantile=q)).mix.replicas["m", "slow"] for q in (0.5, 0.9, 0.99, 0.9999)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert counts[0] >= ceil(20.0 / bearing(cards.kinds["m", "slow"], classes[0]).rate)


@settings(max_examples=15)
@given(rate=st.floats(0.2, 60.0), slo_s=st.floats(1.0, 6.0), quantile=st.sampled_from((0.9, 0.95, 0.99)))
def test_what_cards_can_attain_is_attained_and_costs_no_more_than_one_type_of_card(
    rate: float, slo_s: float, quantile: float
) -> None:
    prices, options = {"slow": 1.0, "fast": 2.4}, Provisioning(quantile=quantile)
    cards = inventory({"slow": 1.0, "fast": 3.0}, prices=prices, cards=100)
    classes = call_classes([flow(rate, slo_s=slo_s), flow(rate / 3, name="long", slo_s=3 * slo_s, prompt=2000)], cards)
    both = size(cards, classes, options)
    assert not both.mix.unserved
    assert both.mix.best_effort or both.attainment["m"] >= quantile
    for name, speed in (("slow", 1.0), ("fast", 3.0)):
        only = inventory({name: speed}, prices=prices, cards=100)
        single = size(only, classes, options)
        if len(single.mix.best_effort) <= len(both.mix.best_effort):
            assert both.mix.cost_per_hour <= 1.1 * single.mix.cost_per_hour + max(prices.values())


def test_an_objective_is_divided_over_the_longest_path_and_plain_code_takes_its_time() -> None:
    nodes = (
        NodeDemand("rewrite", "m", prompt_tokens=100, output_tokens=20),
        NodeDemand("look", None, after=("rewrite",), seconds=0.5),
        NodeDemand("side", "m", after=("rewrite",), prompt_tokens=10, output_tokens=2),
        NodeDemand("answer", "m", after=("look", "side"), prompt_tokens=800, output_tokens=200, answers=True),
    )
    cards = inventory()
    workflow = WorkflowDemand("rag", nodes, 1.0, 3.0)
    budgets = {calls.name: calls.budget_s for calls in call_classes([workflow], cards)}
    assert abs(budgets["rag.rewrite"] + budgets["rag.answer"] - 2.5) < 1e-9
    assert unloaded_s(workflow, cards) < 3.0


def test_a_replica_too_slow_for_the_second_objective_is_not_chosen_for_the_first() -> None:
    cards = inventory({"slow": 1.0, "fast": 3.0}, cards=20, prices={"slow": 1.0, "fast": 9.0})
    for end_s, chosen in ((9.0, "slow"), (2.0, "fast")):  # the slow one takes 2.15 s to the end
        mix = cheapest_mix(cards, call_classes([flow(1.0, slo_s=2.0, end_s=end_s)], cards), OPTIONS)
        assert {on for (_, on), count in mix.replicas.items() if count} == {chosen}


def test_bounds_that_no_mix_keeps_are_said_with_what_to_change() -> None:
    cards = inventory(cards=10, prices={"slow": 1.0})
    options = Provisioning(models={"m": Bounds(min_replicas=3)}, max_cost_per_hour=2.0)
    with pytest.raises(SpecError, match=r"no mix of cards keeps all bounds .*lower min_replicas, raise max_cost"):
        cheapest_mix(cards, call_classes([flow(1.0)], cards), options)


def test_calls_without_any_kind_of_card_are_unserved() -> None:
    nothing = Inventory({}, {})
    mix = cheapest_mix(nothing, call_classes([flow(1.0)], inventory()), OPTIONS)
    assert mix.unserved == pytest.approx({0: 1.0})


def test_models_whose_calls_are_under_way_are_of_no_workflow_whatever_they_are_called() -> None:
    under_way = [CallClass("", "", model, 0.1, 512, 128, inf, False) for model in ("llama-3.1", "llama-3.2")]
    both = call_classes([flow(1.0), flow(1.0, model="n", name="flow-m")], inventory(models=("m", "n")))
    assert together([*under_way, *both]) == [{"m", "n"}]
