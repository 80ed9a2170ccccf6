"""What an object leads to: what functions hold, and what stands in containers, which are looked into up to a bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

__all__ = ["behind", "reach"]

PLAIN = (str, bytes, int, float, bool, type(None))  # what leads to nothing, and fills most containers


def reach(start: Iterable[Any], behind: Callable[[Any], Iterable[Any]], most: int) -> Iterator[Any]:
    """Yield some objects and all that they lead to, each once, but for texts and numbers in containers.

    Parameters
    ----------
    start
        Where to begin.
    behind
        What an object leads to that is no container.
    most
        Items of containers that are looked at, once nothing else is left: one may be an index of documents.
    """
    waiting, containers, seen = list(start), deque[Any](), set[int]()
    while waiting or containers:
        if not waiting:
            held = containers.popleft()
            items = list(islice(held.values() if isinstance(held, dict) else held, most))
            most -= len(items)
            waiting = [item for item in items if type(item) not in PLAIN]
            continue
        held = waiting.pop()
        if id(held) not in seen:
            seen.add(id(held))
            yield held
            if isinstance(held, list | tuple | set | frozenset | dict):
                containers.append(held)
            else:
                waiting.extend(behind(held))


def behind(held: Any) -> Iterator[Any]:
    """Yield what a function, method or partial holds: what it closes over, its defaults, and what it stands for."""
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
            yield from (held.__func__, held.__self__)
        case partial():
            yield from (held.func, held.args, held.keywords)
