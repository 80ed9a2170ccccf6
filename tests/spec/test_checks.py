from __future__ import annotations

import pytest

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.checks import MAX_DEPTH, MAX_NODES
from dask_fmware.spec.graph import check, order
from dask_fmware.spec.workflow import Workflow


def model(name: str, *sources: str, **extra) -> dict:
    fields = {f"x{i}": {"from": source} for i, source in enumerate(sources)}
    prompt = "".join(f"{{{field}}}" for field in fields)
    return {"kind": "model", "name": name, "model": "m", "prompt": prompt, "fields": fields, **extra}


def branch(label: str, *nodes: dict, output: str) -> dict:
    return {"label": label, "block": {"nodes": list(nodes), "output": {"from": output}}}


def workflow(*nodes: dict, output: str | None = None, **extra) -> Workflow:
    output = output if output is not None else nodes[-1]["name"]
    block = {"nodes": list(nodes), "output": {"from": output}}
    return Workflow.model_validate({"name": "w", "inputs": [{"name": "q"}], "block": block, **extra})


def switch(name: str, on: str, *branches: dict, **extra) -> dict:
    return {"kind": "switch", "name": name, "on": {"from": on}, "branches": list(branches), **extra}


def repeated(kind: str, name: str, source: str, bound: str, *nodes: dict, output: str, **extra) -> dict:
    names = {"map": ("over", "item"), "loop": ("initial", "state")}[kind]
    bounds = {"max_iterations": 2} if kind == "loop" else {}
    block = {"nodes": list(nodes), "output": {"from": output}}
    return {"kind": kind, "name": name, names[0]: {"from": source}, names[1]: bound, "block": block, **bounds, **extra}


REFUSED = {
    "cycle": (
        workflow(model("a", "b"), model("b", "a")),
        r"workflow 'w', node 'a': nodes wait for each other in a cycle: 'a' uses 'b', 'b' uses 'a'",
    ),
    "self": (workflow(model("a", "a")), "'a' uses 'a'"),
    "cycle through a branch": (
        workflow(model("a", "s"), switch("s", "q", branch("x", model("b", "a"), output="b")), output="s"),
        "'b' inside 's' uses 'a'",
    ),
    "node that uses what it is in": (
        workflow(switch("s", "q", branch("x", model("b", "s"), output="b"))),
        "'b' inside 's' uses 's'",
    ),
    "block that passes on what it is in": (
        workflow(switch("s", "q", branch("x", output="s"))),
        "the output inside 's' uses 's'",
    ),
    "node named as another": (
        workflow(model("a", "q"), model("a", "q")),
        r"node 'a': .*given 2 times \(model node, model",
    ),
    "node named as an input": (workflow(model("q", "q")), r"'q' is given 2 times \(input, model node\)"),
    "input named as another": (
        workflow(model("a", "q"), inputs=[{"name": "q"}, {"name": "q"}]),
        r"workflow 'w': the name 'q'.*\(input, input\)",
    ),
    "item named as a node": (
        workflow(model("a", "q"), repeated("map", "m", "a", "a", model("b", "a"), output="b")),
        "item of 'm'",
    ),
    "state named as an input": (
        workflow(repeated("loop", "l", "q", "q", model("b", "q"), output="b")),
        "state of 'l'",
    ),
    "nodes of two branches with one name": (
        workflow(switch("s", "q", branch("x", model("b", "q"), output="b"), branch("y", model("b", "q"), output="b"))),
        "node 'b': the name 'b' is given 2 times",
    ),
    "unknown name": (
        workflow(model("a", "qq")),
        r"node 'a': field 'x0' refers to 'qq', which does not exist; did you mean 'q'",
    ),
    "unknown name in a task": (
        workflow({"kind": "task", "name": "t", "function": "f", "kwargs": {"k": {"dict": {"a": {"from": "z"}}}}}),
        "node 't': argument 'k' refers to 'z'",
    ),
    "unknown output": (workflow(model("a", "q"), output="b"), "workflow 'w': output refers to 'b'"),
    "reference into a branch": (
        workflow(switch("s", "q", branch("x", model("b", "q"), output="b")), model("a", "s", "b")),
        r"node 'a': field 'x1' refers to 'b', which exists only inside branch 'x' of switch 's'; .*value of 's'",
    ),
    "reference into another branch": (
        workflow(switch("s", "q", branch("x", model("b", "q"), output="b"), branch("y", model("c", "b"), output="c"))),
        "node 'c': .*only inside branch 'x'",
    ),
    "reference to an item from outside": (
        workflow(repeated("map", "m", "q", "i", model("b", "i"), output="b"), model("a", "m", "i")),
        "node 'a': .*only inside map 'm'",
    ),
    "reference into a loop": (
        workflow(repeated("loop", "l", "q", "s", model("b", "s"), output="b"), model("a", "l", "b")),
        "node 'a': .*only inside loop 'l'",
    ),
    "until that does not exist": (
        workflow(repeated("loop", "l", "q", "s", model("b", "s"), output="b", until={"from": "z"})),
        "node 'l': until refers to 'z'",
    ),
    "both prompts": (
        workflow(model("a", messages=[{"role": "user", "content": "x"}])),
        "node 'a': both prompt and messages",
    ),
    "no prompt": (workflow(model("a", prompt=None)), "node 'a': neither prompt nor messages"),
    "no messages": (workflow(model("a", prompt=None, messages=[])), "messages is empty"),
    "field without a value": (
        workflow(model("a", "q", prompt="{x0}{y}")),
        r"the field 'y' but no value.*\(given: x0\)",
    ),
    "value without a field": (workflow(model("a", "q", prompt="x")), "field 'x0' is given but"),
    "prompt that is no template": (
        workflow(model("a", prompt="{")),
        "workflow 'w', node 'a': the prompt is not a valid",
    ),
    "choices twice": (workflow(model("a", "q", choices=["x", "x"])), "choices has the label 'x' twice"),
    "choices and schema": (workflow(model("a", "q", choices=["x"], json_schema={})), "both choices and json_schema"),
    "schema that is none": (
        workflow(model("a", "q", json_schema={"properties": {"sure": {"type": "bool"}}})),
        "node 'a': json_schema is no sound JSON schema: at properties/sure/type: 'bool' .*; correct it",
    ),
    "schema that lies elsewhere": (
        workflow(model("a", "q", json_schema={"$ref": "https://example.com/schema.json"})),
        "it refers to 'https://example.com/schema.json', which is not in it",
    ),
    "branch twice": (
        workflow(switch("s", "q", branch("x", output="q"), branch("x", output="q"))),
        "two branches have the label 'x'",
    ),
    "node without use": (
        workflow(model("a", "q"), model("b", "q")),
        "node 'a': its value does not contribute to the output",
    ),
    "node without use in a branch": (
        workflow(switch("s", "q", branch("x", model("b", "q"), model("c", "q"), output="c"))),
        "node 'b': its value does not contribute to the output of 'x' in node 's'",
    ),
    "until that is text": (
        workflow(repeated("loop", "l", "q", "s", model("b", "s"), output="b", until={"from": "b"})),
        "node 'l': until is the output of model node 'b': its value is text, which is always true; compare it",
    ),
    "until that is an object": (
        workflow(
            repeated(
                "loop", "l", "q", "s", model("b", "s", json_schema={"type": "object"}), output="b", until={"from": "b"}
            )
        ),
        "node 'l': until is the output of model node 'b': its value is an object, which is always true; compare it",
    ),
    "loop that ignores its state": (
        workflow(repeated("loop", "l", "q", "s", model("b", "q"), output="b")),
        "node 'l': the block never uses the state 's'",
    ),
    "too many nodes": (
        workflow(*[model(f"n{i}", f"n{i - 1}" if i else "q") for i in range(MAX_NODES + 1)]),
        "more than 10,000 nodes",
    ),
}


@pytest.mark.parametrize(("broken", "message"), REFUSED.values(), ids=REFUSED)
def test_broken_workflow_is_refused(broken, message):
    with pytest.raises(WorkflowError, match=message) as caught:
        check(broken)
    assert str(caught.value).startswith("workflow 'w'")


def nested(depth: int) -> Workflow:
    held = [model("n", "q")], "n"
    for i in range(depth):
        held = [switch(f"s{i}", "q", branch("x", *held[0], output=held[1]))], f"s{i}"
    return workflow(*held[0])


def test_nesting_is_bounded():
    check(nested(MAX_DEPTH))
    with pytest.raises(WorkflowError, match="node 's0': blocks are nested deeper than 50"):
        check(nested(MAX_DEPTH + 1))


def test_ten_thousand_nodes_are_sound_and_sorted():
    names = [f"n{i}" for i in range(MAX_NODES)]
    chain = [model(name, before) for before, name in zip(["q", *names], names, strict=False)]
    made = workflow(*reversed(chain), output=names[-1])
    made.check()
    assert list(order(made)) == names


def test_tasks_need_their_functions_only_when_asked():
    made = workflow({"kind": "task", "name": "t", "function": "m:f", "args": [{"from": "q"}]})
    check(made)
    with pytest.raises(WorkflowError, match=r"node 't': its function 'm:f' was not supplied; load .* tasks=\[...\]"):
        check(made, code=True)
    check(made.with_code({"t": print}), code=True)


def test_loop_may_ignore_its_state_if_it_tries_until_it_is_good():
    task = {"kind": "task", "name": "t", "function": "m:f", "args": [{"from": "b"}]}
    check(workflow(repeated("loop", "l", "q", "s", model("b", "q"), task, output="b", until={"from": "t"})))
    for kind in ("boolean", ["integer", "null"]):
        of_schema = model("b", "q", json_schema={"type": kind})
        check(workflow(repeated("loop", "l", "q", "s", of_schema, output="b", until={"from": "b"})))


def test_order_of_a_cycle_names_its_nodes():
    with pytest.raises(WorkflowError, match="cycle: 'a' uses 'b'"):
        order(workflow(model("a", "b"), model("b", "a")))


def test_branch_may_pass_on_a_value_from_outside():
    check(workflow(model("a", "q"), switch("s", "q", branch("x", output="a"), branch("y", output="q"))))
