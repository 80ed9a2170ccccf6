"""Binding inputs and options: what is refused names the workflow, the input and the next step."""

from __future__ import annotations

import threading
from collections import namedtuple
from typing import Any

import dask
import pytest
from distributed import Future

import dask_fmware as fm
from dask_fmware.compile.template import MapStep
from dask_fmware.compile.values import fill
from dask_fmware.errors import WorkflowError
from dask_fmware.spec.scopes import uses
from dask_fmware.spec.workflow import Constant

small = fm.Model("small")


@fm.workflow
def greet(who, tone="kind"):
    """Say hello."""
    return small("Say a {tone} hello to {who}", who=who, tone=tone)


def test_inputs_are_given_by_position_or_name_and_have_defaults() -> None:
    for bound in (greet("Ada", "dry"), greet("Ada", tone="dry"), greet(tone="dry", who="Ada")):
        assert dict(bound._inputs) == {"who": "Ada", "tone": "dry"}
    assert dict(greet("Ada")._inputs)["tone"] == "kind"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "workflow 'greet': input 'who' is missing (inputs: who, tone)"),
        (("a", "b", "c"), {}, "workflow 'greet': 3 inputs given, it has 2 (inputs: who, tone)"),
        (("a",), {"who": "b"}, "workflow 'greet': input 'who' is given twice, by position and by name"),
        (("a",), {"hwo": "b"}, "workflow 'greet': unknown input 'hwo'; did you mean 'who'? (inputs: who, tone)"),
    ],
)
def test_wrong_inputs_are_refused_in_words(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        greet(*args, **kwargs)
    assert str(caught.value) == message


def test_an_input_that_cannot_travel_is_refused_and_not_shown() -> None:
    with pytest.raises(WorkflowError, match=r"workflow 'greet': input 'who' \(a lock\) cannot be sent to a worker"):
        greet(threading.Lock())


@pytest.mark.parametrize(
    "promise",
    [dask.delayed("Ada"), [dask.delayed("Ada")], {"name": (dask.delayed("Ada"),)}, Future("key", client=None)],
    ids=["delayed", "in a list", "deep", "future"],
)
def test_a_promise_of_a_value_is_waited_for_by_a_step_of_its_own(promise: Any) -> None:
    graph = greet(promise).__dask_graph__()
    (waits,) = [task for key, task in graph.items() if str(key).startswith("greet.who-")]
    assert len(waits.dependencies) == 1  # the promise
    assert sum(waits.key in task.dependencies for task in graph.values()) == 1  # the call


def test_a_promise_that_nothing_uses_has_no_step() -> None:
    bound = fm.workflow(lambda who, context=None: small("Hello {who}", who=who), name="flow")("Ada", dask.delayed("x"))
    assert [key for key in bound.__dask_graph__() if str(key).startswith("flow.")] == bound.__dask_keys__()


Pair = namedtuple("Pair", "name age")


def test_a_promise_in_a_container_that_cannot_be_filled_is_refused() -> None:
    with pytest.raises(
        WorkflowError, match=r"workflow 'greet': input 'who' .* holds a Dask future .* in a Pair; put it"
    ):
        greet([Pair(dask.delayed("Ada"), 36)])


def test_a_list_that_holds_itself_is_sent_or_refused_in_words() -> None:
    endless: list[Any] = ["Ada"]
    endless.append(endless)
    assert list(greet(endless)._inputs) == ["who", "tone"]
    endless.append(dask.delayed("Ada"))
    with pytest.raises(WorkflowError, match=r"workflow 'greet': input 'who' .* and itself, or is nested too deeply"):
        greet(endless)


def test_what_lies_beside_a_promise_is_checked_and_not_shown() -> None:
    with pytest.raises(WorkflowError, match=r"workflow 'greet': input 'who' \(a list\) cannot be sent to a worker"):
        greet([dask.delayed("Ada"), threading.Lock()])
    assert "secret" not in repr(greet([dask.delayed("Ada"), "secret"]).__dask_graph__())


def test_a_task_that_cannot_travel_is_refused_with_its_node() -> None:
    lock = threading.Lock()

    @fm.task
    def guarded(text: str) -> str:
        with lock:
            return text

    with pytest.raises(WorkflowError, match=r"workflow 'locked', node 'guarded': .*cannot be sent to a worker"):
        fm.workflow(name="locked")(lambda text: guarded(text))


def test_a_bad_objective_is_refused_at_decoration() -> None:
    with pytest.raises(WorkflowError, match=r"give an fm.SLO"):
        fm.workflow(slo=2.0)(lambda x: small("{x}", x=x))


def test_name_and_objective_hold_for_a_function_and_for_a_loaded_workflow() -> None:
    slo = fm.SLO(ttft_s=2.0)

    @fm.task
    def shout(text):
        return text.upper()

    made = fm.workflow(lambda who: shout(who), slo=slo, name="called")
    loaded = fm.workflow(made.workflow, slo=fm.SLO(e2e_s=9.0), name="again")
    assert (made.workflow.name, made.workflow.slo) == ("called", slo)
    assert (loaded.workflow.name, loaded.workflow.slo) == ("again", fm.SLO(e2e_s=9.0))
    assert loaded.workflow.functions == made.workflow.functions
    assert fm.workflow(made.workflow).workflow == made.workflow
    again = fm.workflow(made, name="again")
    assert (again.workflow.name, again.workflow.slo) == ("again", slo)


def test_a_bad_name_or_objective_of_a_loaded_workflow_is_refused() -> None:
    with pytest.raises(WorkflowError, match=r"workflow 'greet': name: .*, not 'two words'"):
        fm.workflow(greet.workflow, name="two words")
    with pytest.raises(WorkflowError, match=r"slo=2.0: give an fm.SLO"):
        fm.workflow(greet.workflow, slo=2.0)  # type: ignore[call-overload]


def test_options_make_another_run_and_leave_the_first_alone() -> None:
    first = greet("Ada")
    other = first.options(tenant="lab", priority=3, slo=fm.SLO(e2e_s=1.0))
    assert other.run_id != first.run_id
    assert (other.run_options.tenant, other.run_options.priority) == ("lab", 3)
    assert (first.run_options.tenant, first.run_options.priority) == ("default", 0)
    assert other.options(priority=4).run_options.tenant == "lab"


def test_the_objective_of_a_workflow_can_be_taken_from_a_run() -> None:
    prompt = fm.workflow(slo=fm.SLO(ttft_s=2.0), name="prompt")(lambda who: small("{who}", who=who))
    assert prompt("Ada").options(tenant="lab").run_options.slo == fm.SLO(ttft_s=2.0)
    background = prompt("Ada").options(slo=None)
    (plan,) = [task.kwargs["plan"].plan() for task in background.__dask_graph__().values() if "plan" in task.kwargs]
    assert plan.objective is None
    assert background.options(priority=3).run_options.slo is None


@pytest.mark.parametrize(("option", "value"), [("priority", 10_000), ("priority", "high"), ("tenant", "")])
def test_a_bad_option_is_named_with_its_value(option: str, value: Any) -> None:
    with pytest.raises(WorkflowError, match=rf"workflow 'greet': {option}: .*, not {value!r}"):
        greet("Ada").options(**{option: value})


def test_a_workflow_shows_its_inputs_and_keeps_its_docstring() -> None:
    assert repr(greet) == "<workflow greet(who, tone='kind')>"
    assert greet.__doc__ == "Say hello."
    assert repr(greet("Ada")).endswith("inputs: who, tone>")
    assert "Ada" not in repr(greet("Ada"))


def test_a_workflow_that_is_called_in_another_becomes_part_of_it() -> None:
    @fm.workflow(slo=fm.SLO(e2e_s=1.0))
    def twice(who):
        first = greet(who)
        return small("Answer {first} and {second}", first=first, second=greet(first, tone="dry"), name="answer")

    assert list(twice.workflow.nodes) == ["small", "small_2", "answer"]
    assert [node.name for node in fm.workflow(lambda who: greet(who), name="only").workflow.block.nodes] == ["small"]


@fm.workflow
def answered(who):
    return small("Answer {query}", query=small("Query of {who}", who=who, name="query"), name="answer")


def test_a_workflow_with_named_nodes_is_called_more_than_once_in_another() -> None:
    twice = fm.workflow(lambda who: answered(answered(who)), name="twice").workflow
    assert list(twice.nodes) == ["query", "answer", "query_2", "answer_2"]
    assert [source for _, source in uses(twice.nodes["answer_2"])] == ["query_2"]
    either = fm.workflow(
        lambda who: fm.switch(who, a=lambda: answered(who), default=lambda: greet(answered(who))), name="either"
    ).workflow
    assert list(either.nodes) == ["switch", "query", "answer", "query_2", "answer_2", "small"]
    with pytest.raises(WorkflowError, match=r"workflow 'own', node 'answer': the name is taken"):
        fm.workflow(lambda who: small("{x}", x=answered(who), name="answer"), name="own")


@fm.workflow
def choosing(text, kind="short"):
    return fm.switch(
        kind,
        short=lambda: small("{t}", t=text, name="brief"),
        none=lambda: text,
        default=lambda: small("{k}: {t}", k=kind, t=text, name="other"),
    )


@pytest.mark.parametrize(
    ("given", "node"),
    [({}, "brief"), ({"kind": "short"}, "brief"), ({"kind": "long"}, "other"), ({"kind": 3}, "other")],
)
def test_a_switch_on_an_input_that_is_a_constant_in_another_workflow_is_decided_there(given: Any, node: str) -> None:
    outer = fm.workflow(lambda text: choosing(text, **given), name="outer").workflow
    assert list(outer.nodes) == [node]
    assert outer.block.output.source == node
    if node == "other":
        assert outer.nodes[node].fields["k"] == Constant(value=given["kind"])


def test_a_switch_on_an_input_that_is_a_value_of_another_workflow_stays_one() -> None:
    outer = fm.workflow(lambda text, kind: choosing(text, kind), name="outer").workflow
    assert list(outer.nodes) == ["switch", "brief", "other"]


@fm.task
def upper(text: str) -> str:
    return text.upper()


@fm.workflow
def mapping(items):
    return fm.map(upper, items)


@fm.workflow
def strict(kind):
    return fm.switch(kind, a=lambda: upper(kind), b=lambda: small("{k}", k=kind))


def test_a_map_over_an_input_may_be_given_a_list_that_holds_values_of_another_workflow() -> None:
    outer = fm.workflow(lambda text: mapping([text, "b", upper(text)]), name="outer")
    again = fm.workflow(fm.Workflow.from_yaml(outer.workflow.to_yaml(), tasks=[upper]))
    for made in (outer, again):
        step = next(step.payload for step in made._template_with(()).steps if isinstance(step.payload, MapStep))
        assert fill(step.over, {"text": "a", "upper": "A"}) == ["a", "b", "A"]
        assert "for each of a list" in made.workflow.to_mermaid()


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (lambda text: mapping("ab"), "'map': the input 'items' was given a str, and fm.map runs over a list"),
        (lambda text: strict("c"), r"'switch': the input 'kind' was given 'c', which is none of its labels \(a, b\)"),
        (lambda text: strict([text]), "'switch': the input 'kind' was given several values"),
        (lambda text: choosing("a", "none"), "the input 'text' was given a constant .* return it from a function"),
    ],
)
def test_a_constant_that_does_not_fit_is_named_by_its_input(inner: Any, message: str) -> None:
    with pytest.raises(WorkflowError, match=rf"workflow 'outer'.*{message}"):
        fm.workflow(inner, name="outer")


def test_a_workflow_that_cannot_be_part_of_another_says_what_to_do() -> None:
    with pytest.raises(
        WorkflowError, match=r"'outer' calls workflow 'greet': missing a required argument: 'who' \(inputs: who, tone\)"
    ):
        fm.workflow(lambda who: greet(tone=who), name="outer")
    loaded = fm.workflow(fm.Workflow.from_json(greet.workflow.to_json()))
    with pytest.raises(WorkflowError, match=r"'greet', which was loaded from a document; give its result as an input"):
        fm.workflow(lambda who: loaded(who), name="outer")


def test_plain_data_is_bound_by_name_with_defaults_and_without_a_look_at_it() -> None:
    @fm.workflow
    def tuned(who, tone="kind"):
        return small("{who} {tone}", who=who, tone=tone)

    data = [object()]
    bound = tuned.bind_plain({"who": data})
    assert bound._inputs == {"who": data, "tone": "kind"}
    with pytest.raises(WorkflowError, match=r"workflow 'tuned': unknown input 'whom'; did you mean 'who'\? \(inputs:"):
        tuned.bind_plain({"whom": 1})
    with pytest.raises(WorkflowError, match=r"workflow 'tuned': input 'who' is missing"):
        tuned.bind_plain({})
