"""Values that are equal for all runs of a workflow, pickled once and unpickled once in each process.

They are pickled again where a function of a notebook or script in them uses something else than it did.

A run brings little that is its own; templates, functions and schemas come again with every task. A
`Shared` value travels as the same bytes each time, and a process that has seen them does not look into
them again. The scheduler never does: it only passes them on.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from hashlib import blake2b
from operator import is_not
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import cloudpickle

from dask_fmware.compile.surroundings import by_value, surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Shared"]

T = TypeVar("T")
_UNREAD: Any = object()
MOST, MOST_BYTES = 4096, 128 * 2**20  # that a process keeps


class Shared(Generic[T]):
    """A constant and its bytes, of which one is made from the other when it is needed."""

    __slots__ = ("_bytes", "_functions", "_used", "_value")

    def __init__(self, value: T, functions: Iterable[Callable[..., Any]] = ()) -> None:
        self._value = value
        self._functions = by_value(functions)  # of those in the value
        self._used: list[Any] = []
        self._bytes: bytes | None = None

    @property
    def value(self) -> T:
        """The constant."""
        if self._value is _UNREAD:
            assert self._bytes is not None
            self._value = pickle.loads(self._bytes)
        return self._value

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return _known, (self._as_bytes(),)

    def _as_bytes(self) -> bytes:
        if self._functions:
            used = surroundings(self._functions)
            if len(used) != len(self._used) or any(map(is_not, used, self._used)):
                self._used, self._bytes = used, None
        if self._bytes is None:
            self._bytes = cloudpickle.dumps(self._value)
        return self._bytes

    def __dask_tokenize__(self) -> str:
        return blake2b(self._as_bytes(), digest_size=16).hexdigest()

    def __repr__(self) -> str:
        return "<shared>" if self._value is _UNREAD else f"<shared {type(self._value).__name__}>"


class _Kept:
    """The `Shared` values of this process by their bytes; those that were used longest ago go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Shared[Any]] = OrderedDict()
        self._size = 0  # of their bytes; what was made of these takes as much again
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, data: bytes) -> Shared[Any]:
        """Return the one of these bytes."""
        with self._lock:
            if (shared := self._kept.get(data)) is not None:
                self._kept.move_to_end(data)
                return shared
            shared = self._kept[data] = Shared(_UNREAD)
            shared._bytes = data
            self._size += len(data)
            while len(self._kept) > MOST or (self._size > MOST_BYTES and len(self._kept) > 1):
                self._size -= len(self._kept.popitem(last=False)[0])
            return shared


_kept = _Kept()


def _known(data: bytes) -> Shared[Any]:
    """Return the one `Shared` of this process for these bytes."""
    return _kept.of(data)
