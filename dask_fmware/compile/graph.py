"""From a template to the Dask graph and the plan of one run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from dask._task_spec import Task, TaskRef

from dask_fmware.compile.draft import PlanDraft
from dask_fmware.compile.promises import Awaited
from dask_fmware.compile.start import coroutine_task, start_call, start_loop, start_map, start_plain
from dask_fmware.compile.steps import CallStep, PlainStep, run_plain
from dask_fmware.compile.template import BlockTemplate, LoopStep, MapStep, given
from dask_fmware.compile.values import Private, plain
from dask_fmware.model.plan import Objective

__all__ = ["Graph", "instantiate", "new_run_id"]

Graph = dict[str, Task]


def new_run_id() -> str:
    """Return an id that no other run has; 32 hex digits, so that Dask groups keys by what precedes it."""
    return uuid.uuid4().hex


def instantiate(
    template: BlockTemplate,
    inputs: Mapping[str, Any],
    run_id: str,
    *,
    objective: Objective | None = None,
    tenant: str = "default",
    priority: int = 0,
    part_of: str | None = None,
    prefix: str = "",
) -> tuple[Graph, list[str]]:
    """Return the graph of one run and the keys of its outputs.

    The plan travels as an argument of the first output's task, where the scheduler plugin finds it.

    Parameters
    ----------
    template
        What to run.
    inputs
        Values of its inputs, by name, an `Awaited` for those that the template waits for.
    run_id
        From `new_run_id`.
    objective, tenant, priority
        What the run was promised; a body of a map or loop has its run's.
    part_of
        The run that a body belongs to.
    prefix
        Item path in front of node names: ``"summaries[3]."``.
    """
    keys = {name: key + run_id for name, key in template.keys.items()}
    arguments: dict[str, Any] = {}
    graph: Graph = {}
    for name, value in inputs.items():
        if isinstance(value, Awaited):
            arguments[given(name)] = value.argument
            graph.update(value.graph)
        else:
            arguments[name] = Private(value)
    draft = PlanDraft(
        template.planned,
        template.workflow,
        run_id,
        keys[template.outputs[0]],
        tuple(sum(_text_bytes(inputs[name]) for name in step.inputs_in_prompt) for step in template.steps),
        astuple(objective) if objective is not None else None,
        tenant,
        priority,
        part_of,
        prefix,
        tuple((rule.switch, rule.branch(plain(inputs[name]))) for name, rule in template.switches_on_inputs),
    )
    for step in template.steps:
        key, payload, shared = keys[step.name], step.payload, step.shared
        values = [TaskRef(keys[s]) if s in keys else arguments[s] for s in payload.sources]
        extra = {"plan": draft} if step.name == template.outputs[0] else {}
        match payload:
            case CallStep():
                task = coroutine_task(key, start_call, shared, run_id, key, *values, **extra)
            case PlainStep() if payload.is_async:
                task = coroutine_task(key, start_plain, shared, run_id, key, *values, **extra)
            case PlainStep():
                task = Task(key, run_plain, shared, run_id, key, *values, **extra)
            case MapStep():
                args = (shared, part_of or run_id, run_id, key, prefix, *values)
                task = coroutine_task(key, start_map, *args, **extra)
            case LoopStep():
                args = (shared, part_of or run_id, run_id, key, prefix, *values)
                task = coroutine_task(key, start_loop, *args, **extra)
        task._token = key  # keys are unique, and Dask would walk through every argument for it
        graph[key] = task
    return graph, [keys[name] for name in template.outputs]


def _text_bytes(value: Any) -> int:
    seen = plain(value)
    return len(seen.encode(errors="replace")) if isinstance(seen, str) else 0
