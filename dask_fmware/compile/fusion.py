"""Consecutive plain code as one task: a hop between two costs milliseconds, and joining them may delay nothing."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from dask_fmware.compile.steps import Function, PlainStep

__all__ = ["fuse"]


def fuse(steps: MutableMapping[str, Any], outputs: frozenset[str]) -> None:
    """Join a plain step with the plain step that alone uses it, where that delays nothing.

    It delays nothing if the later step waits for nothing that the earlier one does not wait for.

    Parameters
    ----------
    steps
        Payloads of steps by name; those that are joined have the name of the last.
    outputs
        Steps whose own values are asked for.
    """
    users = Counter(source for payload in steps.values() for source in payload.sources)
    merged = True
    while merged:
        merged = False
        for name, later in list(steps.items()):
            if not isinstance(later, PlainStep):
                continue
            for source in later.sources:
                earlier = steps.get(source)
                if (
                    not isinstance(earlier, PlainStep)
                    or source in outputs
                    or users[source] != 1
                    or earlier.guards != later.guards
                    or earlier.decides
                    or not _same_kind(earlier, later)
                    or not {s for s in later.sources if s in steps} - {source} <= set(earlier.sources)
                ):
                    continue
                sources = dict.fromkeys([*earlier.sources, *(s for s in later.sources if s != source)])
                for shared in set(earlier.sources) & set(later.sources):
                    users[shared] -= 1
                steps[name] = later = replace(
                    later, operations=(*earlier.operations, *later.operations), sources=tuple(sources)
                )
                del steps[source]
                merged = True
                break


def _same_kind(earlier: PlainStep, later: PlainStep) -> bool:
    """Threads and the event loop do not mix; merges go with either."""
    kinds = {
        inspect.iscoroutinefunction(op.function)
        for step in (earlier, later)
        for op in step.operations
        if isinstance(op, Function)
    }
    return len(kinds) <= 1
