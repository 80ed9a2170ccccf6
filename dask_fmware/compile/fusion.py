"""Consecutive plain code as one task: a hop between two costs milliseconds, and joining them may delay nothing."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any

from dask_fmware.compile.steps import Function, PlainStep

__all__ = ["fuse"]


def fuse(steps: MutableMapping[str, Any], outputs: frozenset[str]) -> None:
    """Join a plain step with the plain step that alone uses it, where that delays nothing.

    It delays nothing if the later step waits for nothing that the earlier one does not wait for.

    Parameters
    ----------
    steps
        Payloads of steps by name, in any order; those that are joined have the name of the last.
    outputs
        Steps whose own values are asked for.
    """
    users = Counter(source for payload in steps.values() for source in payload.sources)
    before = {name: [source for source in payload.sources if source in steps] for name, payload in steps.items()}
    for name in list(TopologicalSorter(before).static_order()):  # what a step joins has joined all that it can
        while (source := _joinable(name, steps, users, outputs)) is not None:
            earlier, later = steps.pop(source), steps[name]
            for shared in set(earlier.sources) & set(later.sources):
                users[shared] -= 1
            sources = dict.fromkeys([*earlier.sources, *(s for s in later.sources if s != source)])
            operations = (*earlier.operations, *later.operations)
            steps[name] = replace(later, operations=operations, sources=tuple(sources))


def _joinable(name: str, steps: Mapping[str, Any], users: Mapping[str, int], outputs: frozenset[str]) -> str | None:
    """Return a step that a step uses and may be joined with."""
    later = steps[name]
    if not isinstance(later, PlainStep):
        return None
    waits = {source for source in later.sources if source in steps}
    for source in later.sources:
        earlier = steps.get(source)
        if (
            isinstance(earlier, PlainStep)
            and source not in outputs
            and users[source] == 1
            and earlier.guards == later.guards
            and not earlier.decides
            and _same_kind(earlier, later)
            and waits - {source} <= set(earlier.sources)
        ):
            return source
    return None


def _same_kind(earlier: PlainStep, later: PlainStep) -> bool:
    """Threads and the event loop do not mix; merges go with either."""
    kinds = {
        inspect.iscoroutinefunction(op.function)
        for step in (earlier, later)
        for op in step.operations
        if isinstance(op, Function)
    }
    return len(kinds) <= 1
