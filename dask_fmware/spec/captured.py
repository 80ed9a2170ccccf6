"""Handles that a function brings along from around it: in its closure, its defaults, and functions that it calls.

Such a function would run with the handle instead of the value that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from inspect import getattr_static
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

from dask_fmware.spec.recording import Value

__all__ = ["captured"]

MOST = 10_000  # objects that are looked at: a closure may hold an index of documents


def captured(function: Any) -> Value | None:
    """Return a handle that `function` refers to, if any."""
    waiting, seen = [function], set[int]()
    while waiting and len(seen) < MOST:
        held = waiting.pop()
        if isinstance(held, Value):
            return held
        if id(held) not in seen:
            seen.add(id(held))
            waiting.extend(islice(_parts(held), MOST))
    return None


def _parts(held: Any) -> Iterator[Any]:
    match held:
        case FunctionType():
            yield from held.__defaults__ or ()
            yield from (held.__kwdefaults__ or {}).values()
            yield held.__dict__.get("__wrapped__")
            for cell in held.__closure__ or ():
                try:
                    yield cell.cell_contents
                except ValueError:  # not assigned so far
                    continue
        case MethodType():
            yield held.__func__
        case list() | tuple() | set() | frozenset():
            yield from held
        case dict():
            yield from held.values()
        case partial():
            yield from (held.func, held.args, held.keywords)
        case _:
            yield getattr_static(held, "__wrapped__", None)  # another task; what stands for an object is not asked
