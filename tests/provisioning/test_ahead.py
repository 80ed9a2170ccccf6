from __future__ import annotations

from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import DeploymentError, SpecError

small, large = fm.Model("small"), fm.Model("large")


@fm.workflow(slo=fm.SLO(ttft_s=2.0))
def rag(question: str) -> Any:
    query = small("Rewrite {question}", question=question, max_tokens=16, name="rewrite")
    return large("Answer {query}", query=query, max_tokens=100, name="answer")


def document(**prices: float | None) -> dict[str, Any]:
    def latency(speed: float) -> dict[str, Any]:
        return {
            "replicas": 0,
            "latency": {
                "first_token_s": 0.02,
                "prompt_token_s": 1e-4 / speed,
                "output_token_s": 0.02 / speed,
            },
        }

    prices = prices or {"slow": 1.0, "fast": 2.5}
    return {
        "accelerators": {
            name: {"cards": 40, **({} if price is None else {"price_per_hour": price})}
            for name, price in prices.items()
        },
        "models": {
            name: {"engine": "emulated", "slots": 8, "on": {"slow": latency(1.0), "fast": latency(3.0)}}
            for name in ("small", "large")
        },
    }


def test_the_plan_names_cards_cost_goodput_and_runners_up() -> None:
    plan = fm.plan(document(), rag, rate=20, profiles=())
    best = plan.best
    assert best.goodput >= 0.95
    assert best.cost_per_hour == pytest.approx(sum(
        count * {"slow": 1.0, "fast": 2.5}[name] for name, count in best.cards.items()
    ))  # fmt: skip
    assert len(plan.offers) >= 2
    assert all(best.cost_per_hour <= offer.cost_per_hour for offer in plan.offers if offer.goodput >= 0.95)
    assert "price/hour" in str(plan)


def test_cards_are_whole_where_replicas_share_them() -> None:
    shared = document(slow=1.0)
    shared["accelerators"]["slow"]["replicas_per_card"] = 3
    for model in shared["models"].values():
        del model["on"]["fast"]
    best = fm.plan(shared, rag, rate=5, profiles=()).best
    replicas = sum(best.replicas.values())
    assert replicas % 3, "else it says nothing"
    assert best.cards == {"slow": -(-replicas // 3)}
    assert best.cost_per_hour == best.cards["slow"]


def test_more_load_costs_no_less() -> None:
    costs = [fm.plan(document(), rag, rate=rate, profiles=()).best.cost_per_hour for rate in (1, 10, 50)]
    assert costs == sorted(costs)


def test_a_card_type_without_replicas_is_planned_with_where_another_has_some() -> None:
    there = document()
    for model in there["models"].values():
        model["on"]["slow"]["replicas"] = 1
    slo = fm.SLO(ttft_s=0.35)  # the slow cards need 0.41 s
    assert set(fm.plan(there, rag, rate=1, slo=slo, profiles=()).best.cards) == {"fast"}
    assert not rag.budgets(there, (), slo=slo).feasible, "budgets are of the replicas that are deployed"


def test_a_card_type_of_unknown_speed_is_left_out_of_a_plan() -> None:
    there = document()
    for model in there["models"].values():
        model["engine"] = "vllm"
        del model["on"]["fast"]["latency"]
    plan = fm.plan(there, rag, rate=1, profiles=())
    assert set(plan.best.cards) == {"slow"}
    assert "left out, as nothing is known of their speed: large on fast, small on fast" in plan.assumed
    for model in there["models"].values():
        del model["on"]["slow"]["latency"]
    with pytest.raises(SpecError, match="nothing is known of the speed of model"):
        fm.plan(there, rag, rate=1, profiles=())


def test_an_objective_below_the_best_possible_says_what_is_possible() -> None:
    with pytest.raises(SpecError, match=r"ttft_s=0\.1 is below the best possible, 0\.\d+ s.*rewrite > answer"):
        fm.plan(document(), rag, rate=1, slo=fm.SLO(ttft_s=0.1), profiles=())


@fm.workflow
def answer(question: str) -> Any:
    return large("Answer {question}", question=question, max_tokens=100, name="answer")


@pytest.mark.parametrize("workflow", [answer, rag], ids=lambda workflow: workflow.workflow.name)
@pytest.mark.parametrize("bound", ["ttft_s", "e2e_s"])
def test_what_budgets_find_feasible_some_cards_attain(workflow: Any, bound: str) -> None:
    needed_s = workflow.budgets(document(), (), slo=fm.SLO(**{bound: 10.0})).quickest_s[bound]
    for more in (1.0001, 1.02, 1.1, 1.2):
        slo = fm.SLO(**{bound: more * needed_s})
        assert workflow.budgets(document(), (), slo=slo).feasible
        assert fm.plan(document(), workflow, rate=0.1, slo=slo, profiles=()).best.goodput > 0.95


def test_a_missing_price_is_named() -> None:
    with pytest.raises(DeploymentError, match=r"accelerators\.fast: price_per_hour is missing"):
        fm.plan(document(slow=1.0, fast=None), rag, rate=1, profiles=())


def test_a_load_beyond_all_cards_is_said_and_not_hidden() -> None:
    plan = fm.plan(document(), rag, rate=5000, profiles=(), cards=2)
    assert plan.best.goodput < 0.95
    assert "NO mix" in str(plan)
    assert plan.enough is not None  # and what would do
    assert plan.enough.goodput >= 0.95
    assert sum(plan.enough.cards.values()) > 4
    assert "with more cards" in str(plan)


def test_no_row_is_called_the_best_but_for_its_place() -> None:
    titles = [offer.title for offer in fm.plan(document(), rag, rate=20, profiles=()).offers]
    assert "any mix" in titles
    assert "best" not in titles


def test_rates_of_one_workflow_in_several_loads_add_up() -> None:
    plan = fm.plan(document(), rag, rate=20, others=[(rag, 0.5)], profiles=())
    assert dict(plan.rates) == {"rag": 20.5}
    assert str(plan).startswith("for 20.5 runs/s of rag,")


def test_what_is_assumed_of_a_node_that_no_workflow_has_is_refused() -> None:
    with pytest.raises(SpecError, match=r"no model node is called 'anser'; did you mean 'answer'\?"):
        fm.plan(document(), rag, rate=1, profiles=(), output_tokens={"anser": 3000})


def test_a_plan_names_the_maps_that_it_takes_one_item_for() -> None:
    @fm.workflow(slo=fm.SLO(ttft_s=20.0))
    def ask(questions: list[str]) -> Any:
        return fm.map(lambda one: large("Answer {o}", o=one, max_tokens=100, name="each"), questions, name="fan")

    named = fm.plan(document(), ask, rate=2, others=[(rag, 1)], profiles=())
    assert "map 'fan' is planned with 1 item: say how many a run has as a rule, such as" in str(named)
    told = fm.plan(document(), ask, rate=2, others=[(rag, 1)], profiles=(), items={"fan": 20})
    assert "planned with 1 item" not in str(told)
    assert told.best.cost_per_hour > named.best.cost_per_hour


def test_a_card_too_slow_for_the_end_is_not_offered_though_its_first_token_is_in_time() -> None:
    @fm.workflow
    def ask(question: str) -> Any:
        return large("Answer {question}", question=question, max_tokens=100, name="answer")

    ends = fm.plan(document(), ask, rate=20, slo=fm.SLO(e2e_s=1.5), profiles=())
    both = fm.plan(document(), ask, rate=20, slo=fm.SLO(ttft_s=1.4, e2e_s=1.5), profiles=())
    assert both.offers == ends.offers  # the looser bound asks for nothing of its own
    assert set(both.best.cards) == {"fast"}  # the slow one takes 2 s for the answer


@pytest.mark.parametrize(
    ("bounds", "cards", "impossible"),
    [
        ({"default": {"min_replicas": 2}}, 3, ("slow alone", "fast alone")),  # one type holds three of the four
        ({"default": {"min_replicas": 1}, "max_cost_per_hour": 4}, 40, ("fast alone",)),  # two of them cost 5
    ],
)
def test_a_card_type_that_cannot_keep_all_bounds_alone_is_left_out_and_named(
    bounds: dict[str, Any], cards: int, impossible: tuple[str, ...]
) -> None:
    plan = fm.plan({**document(), "provisioning": bounds}, rag, rate=1, profiles=(), cards=cards)
    assert plan.impossible == impossible
    titles = {offer.title for offer in plan.offers}
    assert "any mix" in titles
    assert not titles & set(impossible)
    assert f"left out, as cards and bounds conflict: {', '.join(impossible)}" in str(plan)


def test_bounds_that_no_mix_keeps_are_refused() -> None:
    bounds = {"default": {"min_replicas": 2}, "max_cost_per_hour": 3}
    with pytest.raises(SpecError, match=r"no mix of cards keeps all bounds .* raise max_cost_per_hour"):
        fm.plan({**document(), "provisioning": bounds}, rag, rate=1, profiles=())


@fm.workflow(slo=fm.SLO(ttft_s=0.8))
def summary(text: str) -> Any:
    return small("Sum up {text}", text=text, max_tokens=100, name="sum")


@pytest.mark.parametrize("rate", [1, 4, 10, 20])
def test_workflows_on_models_of_their_own_are_each_judged_by_these(rate: float) -> None:
    serial = document()
    for model in serial["models"].values():
        model["slots"] = 1
    slo = fm.SLO(ttft_s=0.8)
    plan = fm.plan(serial, answer, rate=rate, slo=slo, others=[(summary, rate)], profiles=())
    assert plan.best.goodput >= 0.95
    assert "NO mix" not in str(plan)
    assert "95% of the runs of each workflow in time" in str(plan)


def test_a_card_type_that_cannot_host_all_models_is_left_out_and_named() -> None:
    few = document()
    few["accelerators"]["fast"]["cards"] = 1  # which one of the two models would have
    plan = fm.plan(few, rag, rate=5, profiles=())
    assert plan.impossible == ("fast alone",)
    assert all({model for model, _ in offer.replicas} == {"small", "large"} for offer in plan.offers)
