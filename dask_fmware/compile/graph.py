"""From a template to the Dask graph and the plan of one run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from dask._task_spec import Task, TaskRef

from dask_fmware.compile.bodies import run_loop, run_map
from dask_fmware.compile.steps import CallStep, PlainStep, run_call, run_plain, run_plain_async
from dask_fmware.compile.template import BlockTemplate, LoopStep, MapStep, Step
from dask_fmware.compile.values import Private, plain
from dask_fmware.model.plan import Guard, Objective, PlannedNode, RunPlan

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
        Values of its inputs, by name.
    run_id
        From `new_run_id`.
    objective, tenant, priority
        What the run was promised; a body of a map or loop has its run's.
    part_of
        The run that a body belongs to.
    prefix
        Item path in front of node names: ``"summaries[3]."``.
    """
    keys = {step.name: f"{template.workflow}.{step.name}-{run_id}" for step in template.steps}
    private = {name: Private(value) for name, value in inputs.items()}
    plan = RunPlan(
        run_id=run_id,
        workflow=template.workflow,
        nodes=tuple(_planned(step, keys, inputs, prefix) for step in template.steps),
        output=keys[template.outputs[0]],
        objective=objective,
        tenant=tenant,
        priority=priority,
        part_of=part_of,
        decided=tuple((rule.switch, rule.branch(plain(inputs[name]))) for name, rule in template.switches_on_inputs),
    )
    graph: Graph = {}
    for step in template.steps:
        key, payload = keys[step.name], step.payload
        values = [TaskRef(keys[s]) if s in keys else private[s] for s in payload.sources]
        extra = {"plan": plan} if step.name == template.outputs[0] else {}
        match payload:
            case CallStep():
                graph[key] = Task(key, run_call, payload, run_id, key, *values, **extra)
            case PlainStep():
                function = run_plain_async if payload.is_async else run_plain
                graph[key] = Task(key, function, payload, run_id, *values, **extra)
            case MapStep():
                graph[key] = Task(key, run_map, payload, part_of or run_id, run_id, key, prefix, *values, **extra)
            case LoopStep():
                graph[key] = Task(key, run_loop, payload, part_of or run_id, run_id, key, prefix, *values, **extra)
    return graph, [keys[name] for name in template.outputs]


def _planned(step: Step, keys: Mapping[str, str], inputs: Mapping[str, Any], prefix: str) -> PlannedNode:
    size = step.prompt_bytes
    for name in step.inputs_in_prompt:
        value = plain(inputs[name])
        size += len(value.encode(errors="replace")) if isinstance(value, str) else 0
    return PlannedNode(
        name=prefix + step.name,
        key=keys[step.name],
        after=tuple(prefix + name for name in step.after),
        model=step.model,
        max_tokens=step.max_tokens,
        prompt_bytes=size,
        guards=tuple(Guard(guard.rule.switch, guard.branch) for guard in step.payload.guards),
        answers=step.answers,
    )
