"""What is joined does not depend on how a document lists its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import dask_fmware as fm
from dask_fmware.compile.graph import instantiate, new_run_id
from dask_fmware.compile.steps import PlainStep
from dask_fmware.compile.template import BlockTemplate, LoopStep, MapStep, template
from dask_fmware.spec.workflow import TaskNode, Workflow
from tests.spec.test_workflow_properties import blocks, workflow_data

relaxed = settings(max_examples=50, database=None, suppress_health_check=list(HealthCheck))


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """A document with a task instead of each call, so that there is much to join."""
    for block in blocks(data["block"]):
        block["nodes"] = [
            {"kind": "task", "name": node["name"], "function": "m:f", "args": list(node["fields"].values())}
            if node["kind"] == "model"
            else node
            for node in block["nodes"]
        ]
    return data


def compiled(data: dict[str, Any]) -> BlockTemplate:
    """The template of a document, with a function for each task."""
    workflow = Workflow.model_validate(data)
    tasks = [name for name, node in workflow.nodes.items() if isinstance(node, TaskNode)]
    return template(workflow.with_code(dict.fromkeys(tasks, str)))


def every_block(made: BlockTemplate) -> Iterator[BlockTemplate]:
    yield made
    for step in made.steps:
        if isinstance(step.payload, MapStep | LoopStep):
            yield from every_block(step.payload.body)


def joined(made: BlockTemplate) -> list[tuple[str, tuple[str, ...]]]:
    """Operations of each plain step, those of bodies included."""
    return sorted(
        (step.name, tuple(operation.name for operation in step.payload.operations))
        for block in every_block(made)
        for step in block.steps
        if isinstance(step.payload, PlainStep)
    )


@pytest.mark.parametrize("listed", list(permutations("abc")), ids="".join)
def test_a_chain_is_one_task_in_whatever_order_it_is_listed(listed: tuple[str, ...]) -> None:
    nodes = {
        name: {"kind": "task", "name": name, "function": f"m:{name}", "args": [{"from": source}]}
        for name, source in (("a", "q"), ("b", "a"), ("c", "b"))
    }
    data = {
        "name": "chain",
        "inputs": [{"name": "q"}],
        "block": {"nodes": [nodes[name] for name in listed], "output": {"from": "c"}},
    }
    functions = {name: lambda text, name=name: text + name for name in "abc"}
    made = fm.workflow(Workflow.model_validate(data).with_code(functions))
    assert joined(made._template_with(())) == [("c", ("a", "b", "c"))]
    assert made("q").compute(scheduler="sync") == "qabc"


@relaxed
@given(workflow_data() | workflow_data().map(plain))
def test_whatever_a_step_takes_is_there(data: dict[str, Any]) -> None:
    for block in every_block(compiled(data)):
        steps = [step.name for step in block.steps]
        for place, step in enumerate(block.steps):
            assert set(step.payload.sources) <= {*steps[:place], *block.inputs}
        assert set(block.outputs) <= set(steps)
        instantiate(block, dict.fromkeys(block.inputs, "x"), new_run_id())


@relaxed
@given(workflow_data() | workflow_data().map(plain))
def test_the_order_of_a_document_changes_nothing(data: dict[str, Any]) -> None:
    before = joined(compiled(data))
    for block in blocks(data["block"]):
        block["nodes"] = block["nodes"][::-1]
    assert joined(compiled(data)) == before
