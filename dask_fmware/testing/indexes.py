"""What an object remembers, counted: the entries of every container within it, by where they are.

Nothing is named beforehand, so an index that somebody adds and never empties is found as well.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, MutableSet
from typing import Any

from sortedcontainers import SortedList

__all__ = ["entries", "instances"]

OURS = "dask_fmware"
PLAIN = (str, bytes, int, float, type)
GROW = (Mapping, MutableSet, list, deque, SortedList)


def entries(root: object) -> Counter[str]:
    """Count the entries of all containers that are reachable from an object of this package.

    Parameters
    ----------
    root
        Where to begin; objects of other packages are not looked into.

    Returns
    -------
    Counter
        Class and attribute of the owner -> entries, added up over all of its objects; ``[]`` are containers within the
        entries. Empty containers count 0, what cannot grow (tuples) is not counted.

    Examples
    --------
    >>> from dask_fmware.runtime.replicas.queue import CallQueue
    >>> queue = CallQueue()
    >>> queue.push(((1.0,), 1, "call"))
    >>> dict(entries(queue))
    {'CallQueue._order': 1, 'CallQueue._tickets': 1}
    """
    found: Counter[str] = Counter()
    for where, value in _reachable(root):
        if isinstance(value, GROW) and where:
            found[where] += len(value)
    return found


def instances(root: object) -> Counter[str]:
    """Count the objects of this package that are reachable from one of them, by class."""
    return Counter(type(value).__qualname__ for _, value in _reachable(root) if type(value).__module__.startswith(OURS))


def _reachable(root: object) -> Iterator[tuple[str, object]]:
    """Every object once, with the class and attribute of its owner."""
    seen: set[int] = set()
    todo: list[tuple[str, object]] = [("", root)]
    while todo:
        where, value = todo.pop()
        if value is None or isinstance(value, PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        yield where, value
        todo += reversed(list(_within(where, value)))


def _within(where: str, value: object) -> Iterator[tuple[str, object]]:
    inner = where if where.endswith("[]") else f"{where}[]"
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield inner, key
            yield inner, one
    elif isinstance(value, (*GROW, tuple, frozenset)):
        for one in value:
            yield inner, one
    elif type(value).__module__.startswith(OURS):
        name = type(value).__qualname__
        for attribute, one in _attributes(value):
            yield f"{name}.{attribute}", one


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                yield slot, getattr(value, slot)
