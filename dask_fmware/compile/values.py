"""How values travel between the tasks of a run, and how bindings are filled in with them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import cloudpickle

from dask_fmware.model.completion import Completion
from dask_fmware.spec.workflow import Binding, Constant, Dictionary, Reference, Sequence

__all__ = ["Private", "Slot", "fill", "open_values", "plain", "slots"]

Slot = Any  # a JSON value in which `_Ref` stands for a value that a task brings
OPEN = (str, bytes, int, float, bool, type(None))  # types whose values travel as they are: no code makes them


class Private:
    """A user's value inside a Dask graph, which logs and dashboards show as its type and size only.

    It travels as bytes that the scheduler does not open: there a class may be missing or fail, which would end all runs
    of the message, and a large value would hold up its loop.
    """

    __slots__ = ("_bytes", "_shown", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value
        self._bytes: bytes | None = None
        self._shown = ""

    @property
    def value(self) -> Any:
        """The value; where it has travelled, a new one each time."""
        return self._value if self._bytes is None else pickle.loads(self._bytes)

    def __repr__(self) -> str:
        if self._bytes is not None:
            return self._shown
        size = f" of length {len(self._value)}" if isinstance(self._value, (str, bytes, list, dict)) else ""
        return f"<private {type(self._value).__name__}{size}>"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._bytes is not None:
            return _sealed, (self._bytes, self._shown)
        if type(self._value) in OPEN:
            return Private, (self._value,)
        return _sealed, (cloudpickle.dumps(self._value), repr(self))


def _sealed(data: bytes, shown: str) -> Private:
    private = Private(None)
    private._bytes, private._shown = data, shown
    return private


class _Ref:
    __slots__ = ("source",)

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[type[_Ref], tuple[str]]:
        return (_Ref, (self.source,))


def slots(binding: Binding) -> Slot:
    """Turn a binding of a document into the light structure that travels with a task."""
    match binding:
        case Reference():
            return _Ref(binding.source)
        case Constant():
            return binding.value
        case Sequence():
            return [slots(item) for item in binding.items]
        case Dictionary():
            return {key: slots(item) for key, item in binding.entries.items()}


def fill(slot: Slot, values: Mapping[str, Any]) -> Any:
    """Replace every reference by its plain value."""
    if isinstance(slot, _Ref):
        return plain(values[slot.source])
    if isinstance(slot, list):
        return [fill(item, values) for item in slot]
    if isinstance(slot, dict):
        return {key: fill(item, values) for key, item in slot.items()}
    return slot


def plain(value: Any) -> Any:
    """Return what other nodes see of a value: of a completion its text, label or object."""
    return value.value if isinstance(value, Completion) else value


def open_values(sources: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    """Pair the arguments of a task with the names of their sources."""
    return {
        source: value.value if isinstance(value, Private) else value
        for source, value in zip(sources, values, strict=True)
    }
