"""Inputs that are still to be computed: futures, `Delayed` values, other Dask collections and bound workflows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dask._task_spec import Task, TaskRef, convert_legacy_graph
from dask.base import is_dask_collection
from dask.delayed import single_key, unpack_collections

from dask_fmware.compile.values import Private
from dask_fmware.errors import WorkflowError

__all__ = ["Awaited", "awaited", "is_promise"]

CONTAINERS = (list, tuple, set, dict)


@dataclass(frozen=True, slots=True, repr=False)  # prompts are not shown
class Awaited:
    """A promised input inside the graph of a run."""

    promise: Any  # what was given; a future lives as long as this does
    argument: Any  # of the task that waits for it
    graph: dict[Any, Any]  # what computes it, but for what is on the cluster already


@dataclass(frozen=True, slots=True)
class _Hole:
    """Where a computed value goes in a list, tuple, set or dictionary."""

    number: int


def is_promise(value: Any) -> bool:
    """Whether a value, or one in it, is a future or a Dask collection."""
    waiting, seen = [value], set[int]()
    while waiting:
        held = waiting.pop()
        if isinstance(held, CONTAINERS):
            if id(held) not in seen:  # a container may hold itself
                seen.add(id(held))
                waiting.extend(held.values() if isinstance(held, dict) else held)
        elif _is_future(held) or is_dask_collection(held):
            return True
    return False


def awaited(value: Any, where: str, check: Callable[[Any, str], None]) -> Awaited:
    """Return what a task takes to wait for a promised input.

    Parameters
    ----------
    value
        A promise, or a list, tuple, set or dictionary that holds some.
    where
        Workflow and input, for errors.
    check
        Is given what a container holds besides promises, and `where`.

    Raises
    ------
    WorkflowError
        If it is a container of another type, whose values cannot be replaced, or one that holds itself.
    """
    graph: dict[Any, Any] = {}
    if not isinstance(value, CONTAINERS):
        return Awaited(value, _reference(value, graph), graph)
    references: list[TaskRef] = []

    def emptied(held: Any) -> Any:
        if not is_promise(held):
            return held
        kind = type(held)
        if kind is dict:
            return {key: emptied(one) for key, one in held.items()}
        if kind in CONTAINERS:
            return kind(map(emptied, held))
        if isinstance(held, CONTAINERS):
            raise WorkflowError(
                f"{where} holds a Dask future or collection in a {kind.__name__}; put it in a list, tuple, set or dict"
            )
        references.append(_reference(held, graph))
        return _Hole(len(references) - 1)

    try:
        skeleton = emptied(value)
    except RecursionError:
        raise WorkflowError(
            f"{where} holds a Dask future or collection and itself, or is nested too deeply; flatten it"
        ) from None
    check(skeleton, where)
    return Awaited(value, Task(None, _filled, Private(skeleton), *references), graph)


def _reference(promise: Any, graph: dict[Any, Any]) -> TaskRef:
    """Return the key of a promise, having added to a graph what computes it."""
    if _is_future(promise):
        return TaskRef(promise.key)
    if promise.__dask_postcompute__()[0] is single_key:  # a Delayed or a bound workflow: one of its tasks is its result
        graph.update(convert_legacy_graph(dict(promise.__dask_graph__())))
        return TaskRef(promise.__dask_keys__()[0])
    reference, collections = unpack_collections(promise)
    for collection in collections:
        graph.update(convert_legacy_graph(dict(collection.__dask_graph__())))
    return reference


def _is_future(value: Any) -> bool:
    client = sys.modules.get("distributed.client")  # a future has loaded it
    return client is not None and isinstance(value, client.Future)


def _filled(skeleton: Private, *values: Any) -> Any:
    """Put computed values where they belong; runs in the task that waits for them."""

    def fill(held: Any) -> Any:
        kind = type(held)
        if kind is _Hole:
            return values[held.number]
        if kind is dict:
            return {key: fill(one) for key, one in held.items()}
        return kind(map(fill, held)) if kind in CONTAINERS else held

    return fill(skeleton.value)
