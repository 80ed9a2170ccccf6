from __future__ import annotations

import json

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_fmware as fm
from dask_fmware.errors import SpecError
from dask_fmware.profile.arguments import arguments_digest, engine_arguments
from dask_fmware.profile.assumptions import Assumptions
from dask_fmware.profile.budgets import Budgets, budgets
from dask_fmware.profile.fit import Fit, PhaseFit
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import Profile, ProfileKey, Provenance
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.documents import load_workflow
from dask_fmware.spec.graph import graph
from dask_fmware.spec.scopes import places
from dask_fmware.spec.slo import SLO
from dask_fmware.spec.workflow import Workflow
from tests.spec.test_workflow_properties import workflow_data

FAST = {"first_token_s": 0.02, "prompt_token_s": 1e-4, "output_token_s": 0.01}
SLOW = {"first_token_s": 0.05, "prompt_token_s": 4e-4, "output_token_s": 0.04}
relaxed = settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))
small, large = fm.Model("small"), fm.Model("large")


def deployment(**prices: float) -> Deployment:
    return Deployment.model_validate(
        {
            "accelerators": {
                "H100": {"cards": 8, "price_per_hour": prices.get("H100", 3.6)},
                "L4": {"cards": 8, "price_per_hour": prices.get("L4", 0.36)},
            },
            "models": {
                name: {"engine": "e", "slots": 8, "on": {"H100": {"latency": FAST}, "L4": {"latency": SLOW}}}
                for name in ("m", "small", "large")
            },
        }
    )


@fm.task
def look_up(query: str) -> str:
    return query


@fm.workflow(slo=SLO(ttft_s=2.0))
def rag(question):
    query = small("Rewrite {q}", q=question, max_tokens=20)
    return large("Answer {q} with {p}", q=question, p=look_up(query), max_tokens=200)


@fm.workflow(slo=SLO(ttft_s=2.0))
def triage(message):
    kind = small("Kind of {m}", m=message, choices=["long", "short"])
    return fm.switch(
        kind,
        long=lambda: large("Answer {m}", m=message, max_tokens=400, name="careful"),
        short=lambda: small("Answer {m}", m=message, max_tokens=20, name="quick"),
    )


def split(workflow: Workflow, slo: SLO) -> Budgets:
    return budgets(workflow, deployment(), slo=slo)


def sums(workflow: Workflow, made: Budgets, bound: str) -> float:
    """Longest path by budgets, loops counted."""
    part = graph(workflow)
    each = {node.node: node.budgets_s.get(bound, 0.0) * node.repeats for node in made.nodes}
    total: dict[str, float] = {}
    for name in nx.topological_sort(part):
        total[name] = each.get(name, 0.0) + max((total[n] for n in part.predecessors(name)), default=0.0)
    return max(total.values(), default=0.0)


@relaxed
@given(workflow_data(), st.floats(0.01, 1000), st.floats(1, 5))
def test_budgets_add_up_to_at_most_the_deadline_on_every_path(data: dict, ttft_s: float, more: float) -> None:
    workflow = load_workflow(json.dumps({**data, "slo": None}))
    made = split(workflow, SLO(ttft_s=ttft_s, e2e_s=ttft_s * more))
    for node in made.nodes:
        assert all(budget >= 0 for budget in node.budgets_s.values())
    for bound, deadline_s in made.deadlines_s.items():
        assert sums(workflow, made, bound) <= deadline_s * (1 + 1e-9)


@relaxed
@given(workflow_data(), st.floats(0.01, 1000), st.floats(1, 5))
def test_more_deadline_never_means_less_slack(data: dict, e2e_s: float, more: float) -> None:
    workflow = load_workflow(json.dumps({**data, "slo": None}))
    tight, loose = split(workflow, SLO(e2e_s=e2e_s)), split(workflow, SLO(e2e_s=e2e_s * more))
    for one, other in zip(tight.nodes, loose.nodes, strict=True):
        assert other.slack_s >= one.slack_s - 1e-9
        assert set(one.within) <= set(other.within)
    assert loose.feasible or not tight.feasible
    assert str(loose)
    assert loose._repr_html_()


@relaxed
@given(workflow_data())
def test_costs_are_finite_and_grow_with_price(data: dict) -> None:
    workflow = load_workflow(json.dumps({**data, "slo": None}))
    cheap = budgets(workflow, deployment(), slo=SLO(e2e_s=1e6)).cost_per_1000_runs()
    dear = budgets(workflow, deployment(H100=7.2, L4=0.72), slo=SLO(e2e_s=1e6)).cost_per_1000_runs()
    assert dear == pytest.approx(2 * cheap)
    assert places(workflow) is not None


def test_the_critical_path_spends_the_whole_deadline_in_proportion() -> None:
    made = rag.budgets(deployment(), profiles=())
    rewrite, answer = made.nodes
    assert made.critical_path == ("small", "large")
    assert rewrite.budgets_s["ttft_s"] + answer.budgets_s["ttft_s"] == pytest.approx(2.0)
    usual = [sum(node.latencies_s["ttft_s"].values()) / 2 for node in made.nodes]
    assert rewrite.budgets_s["ttft_s"] / answer.budgets_s["ttft_s"] == pytest.approx(usual[0] / usual[1])


def test_the_answer_is_costed_by_its_first_token_and_what_precedes_it_by_completion() -> None:
    rewrite, answer = rag.budgets(deployment(), profiles=()).nodes
    assert rewrite.latencies_s["ttft_s"]["H100"] == pytest.approx(0.02 + 256e-4 + 0.2)
    assert answer.latencies_s["ttft_s"]["H100"] == pytest.approx(0.02 + 256e-4)


def test_a_deadline_below_idle_latency_is_not_feasible() -> None:
    assert rag.budgets(deployment(), profiles=()).feasible
    made = rag.budgets(deployment(), profiles=(), slo=SLO(ttft_s=0.1))
    assert not made.feasible
    assert "not feasible" in str(made)


def test_a_branch_that_is_quick_gets_the_slack_of_the_slow_one() -> None:
    made = {node.node: node for node in triage.budgets(deployment(), profiles=(), slo=SLO(e2e_s=30)).nodes}
    assert made["quick"].slack_s < made["careful"].budgets_s["e2e_s"]
    assert made["small"].budgets_s["e2e_s"] < made["small"].budgets_s["e2e_s"] + made["quick"].budgets_s["e2e_s"] <= 30


@fm.task
def is_good(text: str) -> bool:
    return bool(text)


def test_a_branch_that_ends_in_a_loop_counts_in_full_beside_one_that_streams() -> None:
    @fm.workflow(slo=SLO(ttft_s=1.0))
    def ask(question):
        return fm.switch(
            look_up(question),
            easy=lambda: small("Answer {q}", q=question, max_tokens=10, name="easy"),
            hard=lambda: fm.loop(
                lambda draft: small("Improve {d}", d=draft, max_tokens=100, name="refine"),
                large("Draft {q}", q=question, max_tokens=50, name="draft"),
                until=is_good,
                max_iterations=8,
            ),
        )

    made = ask.budgets(deployment(), profiles=())
    draft_s, refine_s = 0.02 + 256e-4 + 0.5, 0.02 + 256e-4 + 1.0
    assert made.quickest_s["ttft_s"] == pytest.approx(draft_s + 8 * refine_s)
    assert not made.feasible
    assert made.critical_path == ("draft", "refine")
    nodes = {node.node: node for node in made.nodes}
    assert nodes["easy"].latencies_s["ttft_s"]["H100"] == pytest.approx(0.02 + 256e-4)
    assert nodes["refine"].latencies_s["ttft_s"]["H100"] == pytest.approx(refine_s)
    assert nodes["refine"].slack_s < 0
    assert "'loop' may end the run and streams nothing: all of it counts (ttft_s)" in made.assumed


@pytest.mark.parametrize(
    ("ending", "needed_s"),
    [
        (lambda q: look_up(large("Answer {q}", q=q, max_tokens=100)), 0.02 + 256e-4 + 1.0),
        (lambda q: fm.map(lambda one: large("Do {o}", o=one, max_tokens=100), look_up(q)), 0.02 + 256e-4 + 1.0),
        (lambda q: q, 0.02 + 256e-4),
    ],
    ids=["task", "map", "input"],
)
def test_a_branch_that_ends_in_no_model_counts_until_it_is_done(ending, needed_s: float) -> None:
    @fm.workflow(slo=SLO(ttft_s=1.0))
    def ask(question):
        easy = lambda: small("Answer {q}", q=question, max_tokens=10)  # noqa: E731
        return fm.switch(look_up(question), easy=easy, hard=lambda: ending(question))

    made = ask.budgets(deployment(), profiles=())
    assert made.quickest_s["ttft_s"] == pytest.approx(needed_s)


def test_a_call_that_a_branch_passes_on_counts_until_it_is_done() -> None:
    @fm.workflow(slo=SLO(ttft_s=1.0))
    def ask(question):
        draft = large("Draft {q}", q=question, max_tokens=100, name="draft")
        easy = lambda: small("Answer {q}", q=question, max_tokens=10, name="easy")  # noqa: E731
        return fm.switch(look_up(question), good=lambda: draft, default=easy)

    made = ask.budgets(deployment(), profiles=())
    assert made.quickest_s["ttft_s"] == pytest.approx(0.02 + 256e-4 + 1.0)
    assert {node.node: node.answers for node in made.nodes} == {"draft": False, "easy": True}
    assert "'draft' may end the run and streams nothing: all of it counts (ttft_s)" in made.assumed


@pytest.mark.parametrize(
    ("items", "slots_per_card", "turns"), [(1, None, 1), (16, None, 1), (17, None, 2), (1000, None, 63), (1000, 4, 125)]
)
def test_items_beyond_all_slots_wait_for_their_turn(items: int, slots_per_card: int | None, turns: int) -> None:
    @fm.workflow(slo=SLO(e2e_s=10.0))
    def ask(question):
        return fm.map(lambda one: large("Do {o}", o=one, max_tokens=100, name="each"), look_up(question), name="fan")

    there = deployment().model_dump()  # a replica with 8 slots on either type of card
    for accelerator in there["accelerators"].values():
        accelerator["slots_per_card"] = slots_per_card
    made = ask.budgets(there, profiles=(), items={"fan": items})
    (each,) = made.nodes
    assert each.repeats == turns
    assert made.quickest_s["e2e_s"] == pytest.approx(turns * (0.02 + 256e-4 + 1.0))
    assert each.budgets_s["e2e_s"] == pytest.approx(10 / turns)
    assert any(f"map 'fan': {items} items side by side, in turns" in text for text in made.assumed)


def test_a_map_of_which_nobody_says_how_many_items_it_has_is_named_in_a_line_of_its_own() -> None:
    @fm.workflow(slo=SLO(e2e_s=10.0))
    def ask(question):
        found = fm.map(lambda one: large("Do {o}", o=one, max_tokens=10, name="each"), look_up(question), name="fan")
        return fm.map(lambda one: large("Sum {o}", o=one, max_tokens=10, name="sum"), found, name="add")

    said = "map 'fan' is planned with 1 item: say how many a run has as a rule, such as items={'fan': 20}"
    made = ask.budgets(deployment(), profiles=(), items={"add": 3})
    assert said in str(made).splitlines()
    assert "<div>map &#x27;fan&#x27; is planned with 1 item" in made._repr_html_()  # not in what is folded away
    both = "maps 'fan', 'add' are planned with 1 item each: say how many a run has as a rule, such as items={'fan': 20"
    assert both in str(ask.budgets(deployment(), profiles=()))
    told = ask.budgets(deployment(), profiles=(), items={"fan": 20, "add": 1})
    assert "planned with 1 item" not in str(told) + told._repr_html_()


def test_odds_of_branches_weigh_cost_and_not_budgets() -> None:
    even = triage.budgets(deployment(), profiles=())
    odd = triage.budgets(deployment(), profiles=(), odds={"switch": {"long": 0.0, "short": 1.0}})
    assert [node.budgets_s for node in even.nodes] == [node.budgets_s for node in odd.nodes]
    assert odd.cost_per_1000_runs() < even.cost_per_1000_runs()
    assert [node.executions for node in odd.nodes] == [1.0, 0.0, 1.0]


def test_labels_are_short_outputs() -> None:
    kind = triage.budgets(deployment(), profiles=()).nodes[0]
    assert kind.latencies_s["ttft_s"]["H100"] == pytest.approx(0.02 + 256e-4 + 3 * 0.01)


def test_a_missing_price_is_named() -> None:
    bare = deployment().model_dump()
    bare["accelerators"]["L4"]["price_per_hour"] = None
    bare["accelerators"]["H100"]["price_per_hour"] = None
    made = rag.budgets(bare, profiles=())
    assert made.cost_per_1000_runs() is None
    assert "price_per_hour" in str(made)


def test_a_profile_of_exactly_this_engine_wins_over_the_latency_figure() -> None:
    law = StepLaw.plain(0.001, 1e-6, 1e-4, 0.0)
    phase = PhaseFit("plain", 12, 0.01, 0.02, 0.03, 0.04)
    fit = Fit(law, phase, phase, (1, 512), (1, 8), (1, 4000))

    def profile(engine: str) -> Profile:
        digest = arguments_digest(engine_arguments(deployment(), "large", "L4"))
        key = ProfileKey(model="large", accelerator="L4", engine=engine, engine_version="1", arguments=digest)
        return Profile.of(key, fit, Provenance(kind="measured", source="a test"))

    other = budgets(rag.workflow, deployment(), [profile("another")])
    mine = budgets(rag.workflow, deployment(), [profile("e")])
    assert other.nodes[1].latencies_s["ttft_s"]["L4"] == pytest.approx(0.05 + 256 * 4e-4)
    assert mine.nodes[1].latencies_s["ttft_s"]["L4"] == pytest.approx(0.001 + 256e-6)
    assert any("profile, large on L4 (e 1, arguments " in text for text in mine.assumed)
    (card,) = (c for c in mine.nodes[1].cards if c.accelerator == "L4")
    assert card.shared_card_s < card.completion_s


def test_without_any_figure_the_next_step_is_named() -> None:
    bare = deployment().model_dump()
    bare["models"]["large"]["on"]["L4"]["latency"] = None
    with pytest.raises(SpecError, match="dask fmware profile"):
        rag.budgets(bare, profiles=())


def test_a_workflow_without_an_slo_is_refused() -> None:
    workflow = rag.workflow.model_copy(update={"slo": None})
    with pytest.raises(SpecError, match="has no SLO"):
        budgets(workflow, deployment())


def test_an_unknown_model_names_what_is_deployed() -> None:
    @fm.workflow(slo=SLO(ttft_s=2.0))
    def ask(question):
        return fm.Model("huge")("Answer {q}", q=question)

    with pytest.raises(SpecError, match="'huge' is not deployed"):
        budgets(ask.workflow, deployment(), assumptions=Assumptions())


def test_the_drawing_shows_budgets() -> None:
    made = rag.budgets(deployment(), profiles=())
    assert made.notes()["large"] in made._repr_html_()
    assert "<svg" in made._repr_html_()


def test_every_node_of_every_branch_has_a_budget() -> None:
    from dask_fmware.demo.shopping import shopping

    made = shopping.budgets(deployment(), profiles=(), slo=SLO(ttft_s=30)).nodes
    assert {node.node for node in made if 0 < node.budgets_s["ttft_s"] < 30} == {node.node for node in made}


def test_a_workflow_without_models_costs_nothing() -> None:
    @fm.workflow(slo=SLO(e2e_s=1.0))
    def plain(question):
        return look_up(question)

    made = plain.budgets(deployment(), profiles=())
    assert made.feasible
    assert made.cost_per_1000_runs() == 0
    assert made._repr_html_()
