"""What past calls say of the runs under way, and how soon it is heard."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dask_fmware.model.plan import Guard, Objective, RunPlan
from dask_fmware.runtime.learning.knowledge import Knowledge
from tests.runtime.builders import Driver, assigned, node, plan, replica


def test_the_card_time_of_a_run_is_the_mean_over_branches_until_its_switch_has_decided() -> None:
    knowledge = Knowledge(lambda *_: (0.0, 0.0), lambda _model, prompt, output: prompt + output)
    guards = [(Guard("a", branch),) for branch in (0, 1)]
    branches = [node(f"r/{name}", after=("a",), guards=guard) for name, guard in zip("bc", guards, strict=True)]
    made = plan("r", [node("r/a"), *branches])
    for name, tokens in (("a", 1), ("b", 5), ("c", 10)):
        knowledge.observe_call(made.workflow, name, tokens, tokens)
    for branch in (0, 0, 1):
        knowledge.branches.observe(made.workflow, "a", branch)
    shape = knowledge.shape(made)
    odds = 2.5 / 4  # of branch 0, with half an observation for each before any
    assert knowledge.work(shape, frozenset()).total_s == pytest.approx(2 + odds * 10 + (1 - odds) * 20)
    assert knowledge.work(shape, frozenset({("a", 1)})).by_model == {"small": pytest.approx(22)}


def learning(*names: str, token_s: float = 0.01) -> tuple[Knowledge, RunPlan]:
    """Knowledge for which each output token takes so long, and a plan of calls after each other."""
    knowledge = Knowledge(lambda _model, _prompt, output: (0.0, output * token_s), lambda *_: 0.0)
    nodes = [node(f"r/{name}", after=names[max(i - 1, 0) : i], max_tokens=1000) for i, name in enumerate(names)]
    return knowledge, plan("r", nodes)


def test_a_workflow_that_is_new_in_an_old_cluster_is_learnt_as_soon_as_in_a_new_one() -> None:
    knowledge, made = learning("a", "b")
    for _ in range(10_000):
        knowledge.observe_call("another", "x", 10, 10)
    shape = knowledge.shape(made)
    assert knowledge.after_s(shape, "a", frozenset()) == pytest.approx(10.0)  # of `b` nothing is known
    for _ in range(20):
        knowledge.observe_call(made.workflow, "b", 10, 50)
    assert knowledge.after_s(shape, "a", frozenset()) == pytest.approx(0.5)


def test_lengths_that_change_after_a_long_life_are_taken_up_within_fifty_thousand_calls() -> None:
    knowledge, made = learning("a", "b")
    knowledge.observe_call(made.workflow, "b", 10, 10)
    knowledge.settle()  # as after a million calls
    shape = knowledge.shape(made)
    assert knowledge.after_s(shape, "a", frozenset()) == pytest.approx(0.1)
    for _ in range(50_000):
        knowledge.observe_call(made.workflow, "b", 10, 100)
    assert knowledge.after_s(shape, "a", frozenset()) == pytest.approx(1.0, rel=0.01)


def test_static_budgets_follow_what_is_learnt_of_lengths() -> None:
    knowledge, made = learning("a", "b")
    shape = knowledge.shape(made)
    assert knowledge.share(shape, "a") == pytest.approx(0.5)  # as long as both may be
    for _ in range(20):
        knowledge.observe_call(made.workflow, "a", 10, 10)
        knowledge.observe_call(made.workflow, "b", 10, 90)
    assert knowledge.share(shape, "a") == pytest.approx(0.1)


def test_paths_are_worked_out_seldom() -> None:
    asked = 0

    def execution(_model: str, _prompt: float, output: float) -> tuple[float, float]:
        nonlocal asked
        asked += 1
        return 0.0, output

    knowledge = Knowledge(execution, lambda *_: 0.0)
    made = plan("r", [node("r/a"), node("r/b", after=("a",))])
    for _ in range(2000):
        knowledge.observe_call(made.workflow, "b", 10, 10)
        knowledge.after_s(knowledge.shape(made), "a", frozenset())
    assert asked < 2 * 100


@pytest.mark.parametrize("policy", ["slack", "target"])
def test_what_was_worked_out_before_a_model_had_a_replica_is_worked_out_anew(policy: str) -> None:
    driver = Driver(policy)
    nodes = [node("r/a"), node("r/b", after=("a",), max_tokens=30)]
    driver.submit(plan("r", nodes, objective=Objective(e2e_s=10.0)))
    driver.runnable("r/a")
    before = driver.machine.view(driver.machine.runs.calls["r/a"])
    assert (before.own_s, before.after_s, before.budget_due) == (0.0, 0.0, 10.0)
    driver.ready(replica("a"))
    driver.submit(plan("s", [node("s/a"), node("s/b", after=("a",), max_tokens=30)], objective=Objective(e2e_s=10.0)))
    driver.runnable("s/a")
    view = driver.machine.view(driver.machine.runs.calls["s/a"])
    assert view.after_s == pytest.approx(0.1 + 30 * 0.01)
    assert view.budget_due < 5.0


def test_calls_that_waited_for_the_first_replica_are_ordered_by_how_long_they_take_on_it() -> None:
    driver = Driver("slack")
    for name, max_tokens, deadline_s in (("short", 10, 9.0), ("long", 400, 10.0)):
        nodes = [node(f"{name}/a"), node(f"{name}/{name}", after=("a",), max_tokens=max_tokens)]
        driver.submit(plan(name, nodes, objective=Objective(e2e_s=deadline_s)))
    driver.runnable("short/a", "long/a")
    actions = driver.ready(replica("a", slots=2))
    assert [call_id for call_id, _, _ in assigned(actions)] == ["long/a", "short/a"]  # by latest start: 5.8 and 8.7 s


def test_a_workflow_that_is_defined_anew_is_seen_anew_also_under_the_same_names() -> None:
    knowledge, made = learning("a", "b")
    assert knowledge.after_s(knowledge.shape(made), "a", frozenset()) == pytest.approx(10.0)
    first, second = made.nodes
    anew = replace(made, nodes=(first, replace(second, model="large", max_tokens=10)))
    shape = knowledge.shape(anew)
    assert [(one.model, one.max_tokens) for one in shape.nodes] == [("small", 1000), ("large", 10)]
    assert knowledge.after_s(shape, "a", frozenset()) == pytest.approx(0.1)


def test_the_body_of_a_map_that_is_defined_anew_is_taken_up_and_with_it_that_of_a_map_within_it() -> None:
    knowledge, made = learning("a")
    shape = knowledge.shape(plan("r", [node("r/m", None)]))

    def models() -> set[str]:
        return set(knowledge.work(shape, frozenset()).by_model)

    knowledge.observe_body(made.workflow, "m", [node("r/m[0].x"), node("r/m[0].inner", None)])
    assert models() == {"small"}
    knowledge.observe_body(made.workflow, "m[1].inner", [node("r/m[1].inner[0].y", "other")])
    assert models() == {"small", "other"}
    knowledge.observe_body(made.workflow, "m[0].inner", [node("r/m[0].inner[0].y", "large")])
    assert models() == {"small", "large"}
    knowledge.observe_body(made.workflow, "m", [node("s/m[1].x", "other")])
    assert models() == {"other"}


def test_calls_of_a_loop_within_a_map_count_as_often_as_it_goes_round_in_their_place() -> None:
    knowledge, made = learning("a")
    nodes = [
        node("r/m[0].draft", max_tokens=10),
        node("r/m[0].again", None, after=("m[0].draft",)),
        node("r/m[0].sum", after=("m[0].again",), max_tokens=50),
    ]
    knowledge.observe_body(made.workflow, "m", nodes)
    round_ = [node("r/m[0].again[0].ask", max_tokens=20), node("r/m[0].again[0].check", max_tokens=30)]
    knowledge.observe_body(made.workflow, "m[0].again", round_)
    knowledge.nodes.observe_rounds(made.workflow, "m", 1, 2.0)
    knowledge.nodes.observe_rounds(made.workflow, "m[0].again", 4)
    expected = [
        (call.name.rpartition(".")[2], count) for call, count in knowledge.nodes.expected_bodies(made.workflow, "m")
    ]
    assert expected == [("draft", 2), ("ask", 8), ("check", 8), ("sum", 2)]
    assert knowledge.nodes.in_turn(made.workflow, "m")
    shape = knowledge.shape(plan("r", [node("r/a"), node("r/m", None, after=("a",))]))
    after_s = {
        "a": 0.1 + 4 * 0.5 + 0.5,
        "m[1].draft": 4 * 0.5 + 0.5,
        "m[1].again[0].ask": 0.3 + 3 * 0.5 + 0.5,
        "m[1].again[2].check": 0.5 + 0.5,
        "m[1].again[3].check": 0.5,
        "m[1].sum": 0.0,
    }
    assert {name: knowledge.after_s(shape, name, frozenset()) for name in after_s} == pytest.approx(after_s)


def test_a_branch_on_which_no_node_is_counts_for_what_is_expected() -> None:
    """Of a switch whose default passes a value on, or that takes no branch at all, nodes name one branch alone."""
    knowledge = Knowledge(lambda _model, _prompt, output: (0.0, output), lambda _model, _prompt, output: output)
    chain = node("r/chain", after=("which",), guards=(Guard("which", 0),), max_tokens=100)
    shape = knowledge.shape(plan("r", [node("r/which"), chain]))
    assert knowledge.after_s(shape, "which", frozenset()) == pytest.approx(50.0), "two branches, while nothing is known"
    for branch in [0, *[1] * 89, *[None] * 10]:
        knowledge.branches.observe("rag", "which", branch)
    knowledge.forget_paths()
    odds = 1.5 / 101
    assert knowledge.after_s(shape, "which", frozenset()) == pytest.approx(odds * 100.0)
    assert knowledge.work(shape, frozenset()).total_s == pytest.approx(10.0 + odds * 100.0)
    assert knowledge.paths_quantile_s(shape, frozenset(), 0.9)["which"] == 0.0
    assert knowledge.after_s(shape, "which", frozenset({("which", 0)})) == pytest.approx(100.0)
