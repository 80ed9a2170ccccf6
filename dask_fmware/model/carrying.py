"""Small results, packed where they are made and opened where they are needed: they travel with messages.

Dask has the worker of a dependent ask the one that made the result, and a client the scheduler, which asks the worker.
A small result goes with the message that tells of its end, and on with the one that brings its dependent, or the news
of it to a client.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from itertools import chain
from typing import Any

from dask_fmware.model.call import SKIPPED
from dask_fmware.model.completion import Completion

__all__ = ["LARGEST_BYTES", "is_small", "pack", "unpack"]

LARGEST_BYTES = 32 * 1024  # pickled; the scheduler copies it twice
DEEPEST = 20  # containers in each other
_EACH = 8  # bytes, at the least, of what has no length


def pack(value: Any) -> bytes | None:
    """Pickle a small value made of plain types; None for any other, which is fetched as Dask does it.

    Classes of users are left alone: a process that only passes by may not have them, and pickling may do anything.
    """
    if not is_small(value):
        return None
    packed = pickle.dumps(value, protocol=5)
    return packed if len(packed) <= LARGEST_BYTES else None


def is_small(value: Any) -> bool:
    """Whether a value is made of plain types, and not large."""
    return _room(value, LARGEST_BYTES, DEEPEST) >= 0


def unpack(packed: bytes) -> Any:
    """Return what `pack` has packed. As with any pickle, bytes of another source may run code."""
    return pickle.loads(packed)


def _room(value: Any, room: int, depth: int) -> int:
    """Bytes that a value leaves of so many; below 0 if it is larger, deeper, or not made of plain types."""
    kind = type(value)
    if kind is str or kind is bytes:
        return room - len(value)
    if value is None or value is SKIPPED or kind is bool or kind is float:
        return room - _EACH
    if kind is int:
        return room - _EACH - int(value.bit_length()) // 8
    parts: Iterable[Any]
    if kind is list or kind is tuple:
        parts = value
    elif kind is dict:
        parts = chain(value, value.values())
    elif kind is Completion:
        parts = (value.text,) if value.value is value.text else (value.text, value.value)
    else:
        return -1
    for part in parts if depth else ():
        room = _room(part, room - _EACH, depth - 1)
        if room < 0:
            break
    return room if depth else -1
