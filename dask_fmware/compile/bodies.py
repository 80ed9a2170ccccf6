"""Maps and loops: tasks on light workers that submit the runs of their bodies and wait for them.

How often a body runs is known only at run time, so it cannot be part of the graph that was submitted.
The task gives its thread slot back while it waits, holds no engine slot, and takes its bodies with it
when it is cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import BaseModel

from dask_fmware.compile.shared import Shared
from dask_fmware.compile.steps import Told, model_host, opened, passes, skipped, tell
from dask_fmware.compile.values import fill, plain
from dask_fmware.errors import NotInstalledError, WorkflowError

if TYPE_CHECKING:
    from dask_fmware.compile.template import LoopStep, MapStep

__all__ = ["run_loop", "run_map"]


async def run_map(
    shared: Shared[MapStep],
    top_id: str,
    run_id: str,
    key: str,
    prefix: str,
    /,
    *values: Any,
    **told: Unpack[Told],
) -> Any:
    """Run the body once for each item, all at once, and return the list of plain outputs."""
    from dask_fmware.compile.graph import instantiate, new_run_id

    step = shared.value
    named = opened(step.sources, values, told)
    if not passes(step.guards, named):
        return skipped(run_id, key)
    items = fill(step.over, named)
    where = f"workflow '{step.workflow}', node '{step.node}'"
    if not isinstance(items, (list, tuple)):
        raise WorkflowError(f"{where}: fm.map runs over a list, got a {type(items).__name__}")
    if len(items) > step.max_items:
        raise WorkflowError(
            f"{where}: {len(items)} items, the bound is max_items={step.max_items}; raise it or send fewer"
        )
    graph: dict[str, Any] = {}
    outputs: list[str] = []
    for i, item in enumerate(items):
        inputs = {**{name: named.get(name) for name in step.body.inputs}, step.item: item}
        made, keys = instantiate(step.body, inputs, new_run_id(), part_of=top_id, prefix=f"{prefix}{step.node}[{i}].")
        graph |= made
        outputs += keys
    results = await _submit(graph, outputs, key, where) if outputs else []
    result = [plain(value) for value in results]
    tell(step, run_id, key, result, told)
    return result


async def run_loop(
    shared: Shared[LoopStep],
    top_id: str,
    run_id: str,
    key: str,
    prefix: str,
    /,
    *values: Any,
    **told: Unpack[Told],
) -> Any:
    """Run the body on its own output until the condition holds or the bound is reached."""
    from dask_fmware.compile.graph import instantiate, new_run_id

    step = shared.value
    named = opened(step.sources, values, told)
    if not passes(step.guards, named):
        return skipped(run_id, key)
    where = f"workflow '{step.workflow}', node '{step.node}'"
    state = fill(step.initial, named)
    for i in range(step.max_iterations):
        inputs = {**{name: named.get(name) for name in step.body.inputs}, step.state: state}
        graph, keys = instantiate(step.body, inputs, new_run_id(), part_of=top_id, prefix=f"{prefix}{step.node}[{i}].")
        state, *until = await _submit(graph, keys, key, where)
        if until and _is_done(plain(until[0]), where):
            break
    tell(step, run_id, key, state, told)
    return state


def _is_done(value: Any, where: str) -> bool:
    if isinstance(value, str):
        raise WorkflowError(f"{where}: until is a text, and 'no' is true as well; compare it and return True or False")
    if isinstance(value, BaseModel | Mapping):
        raise WorkflowError(
            f"{where}: until is a {type(value).__name__}, which is true whatever it says; return True or False by its "
            "content"
        )
    return bool(value)


async def _submit(graph: dict[str, Any], keys: list[str], key: str, where: str) -> list[Any]:
    """Run a graph from inside a task without holding the task's thread slot, and return the values of `keys`."""
    host = model_host()
    if host is None:
        raise NotInstalledError(
            f"{where}: maps and loops need a Dask cluster with the dask-fmware runtime; start one with "
            "fm.LocalModelCluster(deployment) or call fm.install(client, deployment)"
        )
    results: list[Any] = await host.submit(graph, keys, key)
    return results
