from __future__ import annotations

import functools
import math

import pytest
from pydantic import BaseModel

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.tracing import Model, Value, loop, map_, switch, task, trace
from dask_fmware.spec.workflow import Constant, Dictionary, Reference, Sequence

small = Model("small")


@task
def shout(text: str, *, times: int = 1) -> str:
    return text.upper() * times


@task
async def later(text: str) -> str:
    return text


class Verdict(BaseModel):
    good: bool


def say(value):
    return small("Say {value}", value=value)


def test_tracing_twice_gives_equal_documents(rag):
    def twice(question):
        return shout(small("On {question}", question=question), times=2)

    assert trace(twice) == trace(twice)
    assert trace(twice).to_yaml() == trace(twice).to_yaml()
    assert trace(twice) != rag
    assert trace(twice) != "twice"


def test_workflow_takes_name_and_description_from_its_function(rag):
    assert rag.name == "rag"
    assert rag.description == "Answer from what retrieval finds."
    assert rag.slo is not None
    assert rag.slo.ttft_s == 2.0


def test_task_is_a_plain_function_outside_a_workflow():
    assert shout("a", times=2) == "AA"
    assert task(shout) is shout


def test_tasks_may_call_tasks():
    @task
    def both(text):
        return shout(text) + "!"

    assert trace(lambda text: both(text), name="w").functions["both"]("a") == "A!"


def test_code_is_attached_by_node_name():
    workflow = trace(lambda text: small("Judge {a}", a=shout(shout(text)), schema=Verdict), name="w")
    assert set(workflow.functions) == {"shout", "shout_2"}
    assert workflow.schemas == {"small": Verdict}
    assert workflow.nodes["small"].json_schema == Verdict.model_json_schema()


def test_arguments_become_bindings():
    @task
    def take(*args, **kwargs): ...

    node = trace(lambda text: take(text, [text, 1], {"a": (text, (2, 3))}, (1, (2,)), k={"x": [1]}), name="w").nodes[
        "take"
    ]
    assert node.args[0] == Reference(source="text")
    assert isinstance(node.args[1], Sequence)
    assert isinstance(node.args[2], Dictionary)
    assert node.args[3] == Constant(value=[1, [2]])
    assert node.kwargs["k"] == Constant(value={"x": [1]})


def test_names_are_made_from_models_and_kept_apart():
    workflow = trace(lambda small_2: say(say(say(small_2))), name="w")
    assert list(workflow.nodes) == ["small", "small_3", "small_4"]
    odd = trace(lambda text: Model("7 Größe/8b" + "x" * 100)("{t}", t=text), name="w")
    assert next(iter(odd.nodes)).startswith("_7_Gr__e_8b")


def test_chat_makes_turns():
    node = trace(lambda text: small.chat("{t}", t=text, system="Be brief"), name="w").nodes["small"]
    assert [turn.role for turn in node.messages] == ["system", "user"]
    turns = [{"role": "user", "content": "{t}"}]
    assert trace(lambda text: small.chat(turns, t=text), name="w").nodes["small"].prompt is None


def test_model_defaults_hold_for_every_call():
    node = trace(lambda text: Model("m", max_tokens=7, seed=1)("{t}", t=text, seed=2), name="w").nodes["m"]
    assert (node.max_tokens, node.seed) == (7, 2)
    assert repr(small) == "Model('small')"


def test_loop_with_until_keeps_the_nodes_that_until_adds():
    workflow = trace(lambda text: loop(say, text, max_iterations=3, until=lambda out: shout(out)), name="w")
    node = workflow.nodes["loop"]
    assert {n.name for n in node.block.nodes} == {"small", "shout"}
    assert node.until == Reference(source="shout")


def test_inputs_have_defaults():
    def f(a, b=3, c=None):
        return small("{a}{b}{c}", a=a, b=b, c=c)

    assert [(i.name, i.required, i.default) for i in trace(f).inputs] == [
        ("a", True, None), ("b", False, 3), ("c", False, None),
    ]  # fmt: skip


REFUSED_USES = {
    "f-string": (lambda v: small(f"Say {v}"), "f-string"),
    "repr in a prompt": (lambda v: small(f"Say {v!r}"), "the repr of the value of 'text'.*name a field in the prompt"),
    "repr in a turn": (lambda v: small.chat(f"Say {[v]}"), "the repr of the value of 'text'"),
    "repr in an argument": (lambda v: shout(f"{[v]}"), "node 'shout', argument 0: .* the repr of the value of 'text'"),
    "str": (lambda v: small("Say " + str(v)), "has no text"),
    "concatenation": (lambda v: small("Say " + v), "has no content"),
    "if": (lambda v: say(v) if v else v, r"has no truth.*fm\.switch"),
    "equality": (lambda v: say(v) if v == "a" else v, r"has no equality.*fm\.switch.*, or decide inside .*@fm\.task"),
    "inequality": (lambda v: say(v) if v != "a" else v, "has no equality"),
    "order": (lambda v: v < 3, "has no order"),
    "iteration": (lambda v: [say(x) for x in v], r"has no items.*fm\.map"),
    "in": (lambda v: "a" in v, "has no items"),
    "length": (lambda v: len(v), "has no length"),
    "index": (lambda v: v[0], "has no items"),
    "attribute": (lambda v: v.text, "has no attribute 'text'"),
    "call": (lambda v: v(), "has no methods"),
    "number": (lambda v: int(v), "has no number"),
    "prompt is a value": (lambda v: small(v), r"the prompt is <value of 'text'>"),
    "message is a value": (lambda v: small.chat(v), r"the prompt is <value of 'text'>"),
    "messages are nothing": (lambda v: small.chat(None), "messages is a NoneType; give a text or a list of"),
    "messages are a turn": (lambda v: small.chat({"role": "user"}), "messages is a dict; give a text or a list of"),
    "prompt is a number": (lambda v: small(3), "the prompt is a int"),
    "argument is a value": (lambda v: small("{seed}", seed=v), "seed is an argument of the call"),
    "name is a value": (lambda v: small("{name}", name=v), "give the field of the prompt another name"),
    "name is a number": (lambda v: small("a", name=3), "named by text, not 3"),
    "name is not ASCII": (lambda v: small("{v}", v=v, name="größe"), r"node 'größe': name: .*not 'größe'"),
    "name is taken": (lambda v: small("{v}", v=small("{v}", v=v, name="a"), name="a"), "the name is taken"),
    "max_tokens out of range": (lambda v: small("{v}", v=v, max_tokens=0), r"node 'small': max_tokens: .*, not 0"),
    "misspelt argument": (lambda v: small("{v}", v=v, max_token=5), r"field 'max_token' .*did you mean 'max_tokens'"),
    "missing field": (lambda v: small("{v} {w}", v=v), r"node 'small': the prompt has the field 'w'"),
    "schema": (lambda v: small("{v}", v=v, schema=3), "a pydantic class or a JSON schema"),
    "choices and schema": (lambda v: small("{v}", v=v, choices=["a"], schema={}), "both choices and json_schema"),
    "set": (lambda v: small("{v}", v={v}), "a set of values cannot be written"),
    "bytes": (lambda v: small("{v}", v=b"x"), "a bytes cannot be written"),
    "nan": (lambda v: small("{v}", v=math.nan), "the number nan cannot be written"),
    "object": (lambda v: shout(object()), "a object cannot be written"),
    "key": (lambda v: shout({1: v}), "a key of type int; keys are text"),
    "task signature": (lambda v: shout(v, time=3), r"node 'shout': .*'time'.*its signature is shout\(text"),
    "nothing returned": (lambda v: None, "returned nothing instead of the value of a node"),
    "constant returned": (lambda v: "text", "returned a str instead"),
    "list returned": (lambda v: [v], "returned a list of values instead"),
    "forgotten node": (lambda v: (say(v), say(v))[1], "node 'small': its value does not contribute"),
    "switch on text": (lambda v: switch("a", a=lambda: v), r"fm\.switch takes the value of a node.*not a str"),
    "switch without branches": (lambda v: switch(v), "at least one branch"),
    "branches in a list": (lambda v: switch(v, [lambda: v]), "a dictionary of label and function, not a list"),
    "branch twice": (lambda v: switch(v, {"a": lambda: v}, a=lambda: v), "two branches have the label 'a'"),
    "label is a number": (lambda v: switch(v, {1: lambda: v}), "the label 1 is a int; labels are text"),
    "branch is a value": (lambda v: switch(v, a=say(v)), "branch 'a' is a Value.*write lambda"),
    "branch takes arguments": (lambda v: switch(v, a=lambda x: x), "branch 'a' must be a function of no arguments"),
    "branch returns text": (lambda v: switch(v, a=lambda: "x"), "branch 'a' returned a str"),
    "default returns text": (lambda v: switch(v, a=lambda: v, default=lambda: "x"), "default returned a str"),
    "map over a list": (lambda v: map_(say, [v]), r"fm\.map takes the value"),
    "map of no argument": (lambda v: map_(lambda: v, v), "must be a function of one argument"),
    "map of a builtin": (lambda v: map_(type, v), "has no signature|returned a type"),
    "loop without end": (lambda v: loop(say, v, max_iterations=0), "max_iterations: .*not 0"),
    "loop that ignores its state": (lambda v: loop(lambda s: say(v), v, max_iterations=2), "never uses the state"),
    "until is known": (lambda v: loop(say, v, max_iterations=2, until=lambda s: True), "until returned True"),
    "until is no function": (lambda v: loop(say, v, max_iterations=2, until=3), "until is a int, not a function"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), REFUSED_USES.values(), ids=REFUSED_USES)
def test_misuse_says_what_to_write_instead(body, message):
    with pytest.raises(WorkflowError, match=message):
        trace(lambda text: body(text), name="w")


def test_errors_do_not_show_prompts():
    secret = "confidential " * 20
    with pytest.raises(WorkflowError) as caught:
        trace(lambda text: small(secret + "{missing}"), name="w")
    assert "confidential" not in str(caught.value)
    with pytest.raises(WorkflowError) as caught:
        trace(lambda text: small('{"label": "' + secret + '"}'), name="w")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("switched", "message"),
    [
        (lambda v: switch(v, a=lambda: v), "no branch for 'b', a choice of 'small'.*add the branch or a default"),
        (lambda v: switch(v, a=lambda: v, b=lambda: v, c=lambda: v), r"no choice of 'small' is 'c'.*remove the branch"),
        (lambda v: switch(v, a=lambda: v, B=lambda: v, default=lambda: v), "no choice of 'small' is 'B'"),
    ],
)
def test_branches_of_a_switch_fit_the_choices_it_is_on(switched, message):
    def f(text):
        return switched(small("{t}", t=text, choices=["a", "b"]))

    with pytest.raises(WorkflowError, match=f"workflow 'f', node 'switch': {message}"):
        trace(f)


def test_default_stands_for_choices_without_a_branch():
    def f(text):
        label = small("{t}", t=text, choices=["a", "b"])
        return switch(label, a=lambda: label, default=lambda: text)

    assert trace(f).nodes["switch"].default is not None


def test_what_belongs_into_a_workflow_is_refused_outside():
    for call in (
        lambda: small("a"),
        lambda: switch(Value("a")),
        lambda: map_(say, Value("a")),
        lambda: loop(say, 1, max_iterations=1),
    ):
        with pytest.raises(WorkflowError, match="outside a workflow"):
            call()


def test_values_of_another_workflow_are_refused():
    kept = []
    trace(lambda text: kept.append(text) or say(text), name="first")
    with pytest.raises(WorkflowError, match="belongs to another workflow"):
        trace(lambda text: say(kept[0]), name="second")


def test_value_of_a_branch_cannot_be_used_beside_it():
    kept = []

    def f(text):
        first = switch(text, a=lambda: (kept.append(say(text)), kept[0])[1])
        return small("{a}{b}", a=first, b=kept[0])

    with pytest.raises(
        WorkflowError, match=r"'small', which exists only inside branch 'a' of switch 'switch'; make it"
    ):
        trace(f)


def test_cyclic_list_is_refused():
    endless: list = []
    endless.append(endless)
    with pytest.raises(WorkflowError, match="nested deeper"):
        trace(lambda text: shout(endless), name="w")


def test_failed_trace_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        trace(lambda text: 1 / 0, name="w")
    assert shout("a") == "A"


def test_what_cannot_be_traced_is_refused():
    async def coroutine(a): ...

    def generator(a):
        yield a

    async def several(a):
        yield a

    def größe(a):
        return say(a)

    def odd(ä):
        return say(ä)

    def default(a=(1, 2)):
        return say(a)

    cases = [
        (coroutine, "coroutine function cannot be traced"),
        (generator, "generator function cannot be traced"),
        (several, "generator function cannot be traced"),
        (functools.partial(coroutine), "workflow 'partial': a coroutine function cannot be traced"),
        (größe, r"workflow 'größe': name: .*name it with letters"),
        (lambda a: say(a), "<lambda>"),
        (odd, "input 'ä' is no name"),
        (default, "default of 'a' is a tuple"),
        (lambda *a: say(a), "inputs have names"),
        (lambda **a: say(a), "inputs have names"),
        (lambda a, /: say(a), "positional only"),
        ("text", "not from a str"),
    ]
    for function, message in cases:
        with pytest.raises(WorkflowError, match=message):
            trace(function)


def test_what_cannot_be_a_task_is_refused():
    def pairs(a):
        yield a

    async def later_pairs(a):
        yield a

    for function, message in (
        (3, "decorates a function, not a int"),
        (functools.partial(print), "with a name, not a partial"),
        (type, "has no signature"),
        (pairs, "'pairs' is a generator function, whose value cannot travel; return a list"),
        (later_pairs, "'later_pairs' is a generator function"),
    ):
        with pytest.raises(WorkflowError, match=message):
            task(function)


def test_what_cannot_be_a_model_is_refused():
    with pytest.raises(WorkflowError, match="not ''"):
        Model("")
    with pytest.raises(WorkflowError, match=r"unknown default 'max_token'; did you mean 'max_tokens'"):
        Model("m", max_token=3)


def test_value_leaves_protocols_of_notebooks_alone():
    value = Value("a")
    assert repr(value) == "<value of 'a'>"
    assert not hasattr(value, "_repr_html_")
    assert len({value, Value("a")}) == 2


def test_methods_of_builtin_types_are_tasks():
    upper = trace(lambda text: task(str.upper)(text), name="w").nodes["upper"]
    assert upper.function == "builtins:str.upper"


def test_coroutine_functions_are_tasks():
    assert trace(lambda text: later(text), name="w").nodes["later"].function.endswith(":later")


@pytest.mark.parametrize("value", ["\ud800", {"a": ["\ud800"]}])
def test_text_that_utf_8_cannot_write_is_refused(value):
    with pytest.raises(WorkflowError, match="node 'small': a text in it has half of a character"):
        trace(lambda text: small("{a}{b}", a=text, b=value), name="w")
    with pytest.raises(WorkflowError, match="workflow 'w': a text in it has half of a character"):
        trace(lambda text=value: small("{a}", a=text), name="w")
