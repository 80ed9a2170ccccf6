"""What a callable holds besides its code, in words that are the same in each process.

Defaults, variables of enclosing functions, arguments of partial functions, attributes of callable objects: whatever
changes what it does while its text stays as it is. Plain values count by what they are, functions by their code and
what they hold in turn. Of other things only the type counts, since their texts may hold an address. Functions that
are called by a name of their module are not followed.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Number
from pathlib import PurePath
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, TypeAlias

from pydantic import BaseModel

from dask_fmware.compile.collection import WorkflowFunction

__all__ = ["Words", "compiled", "held", "syntax"]

Words: TypeAlias = "str | tuple[Words, ...]"
PLAIN = (bool, int, float, complex, str, bytes)


def held(function: Any) -> Words:
    """Return what a callable holds, its decorators included; empty where that is nothing."""
    return _Held().of_callable(function)


def syntax(function: Any) -> str | None:
    """Return the syntax tree of a function or of a code object; None without a source that is whole."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # typed into a shell, a lambda in the middle of a line
        return None


def compiled(code: CodeType) -> list[object]:
    """Return what stands for code without a source, the names that it goes by left out."""
    return [code.co_code.hex(), *(compiled(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts)]


class _Held:
    """Goes over what a callable holds, each callable once."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}  # id of a callable -> its number, and itself, so that it lives on
        self._within: list[int] = []  # ids of the containers that what is described is in

    def of_callable(self, function: Any) -> Words:
        if id(function) in self._met:
            return f"number {self._met[id(function)][0]}"
        self._met[id(function)] = len(self._met), function
        own, inner = self._own(function), getattr(function, "__wrapped__", None)
        if inner is None or isinstance(function, WorkflowFunction):
            return own
        return ("wrapped by", _text(function), own, self.of_callable(inner))

    def _own(self, function: Any) -> Words:
        """What it holds itself, not what it wraps."""
        if isinstance(function, functools.partial):
            return ("partial", *map(self.of, (function.func, function.args, function.keywords)))
        if isinstance(function, MethodType):
            return ("method of", self.of(function.__self__), self.of_callable(function.__func__))
        if isinstance(function, FunctionType):
            return self._of_function(function)
        if isinstance(function, WorkflowFunction):
            spec = function.workflow.model_copy(update={"slo": None})
            return ("workflow", spec.to_json(), self.of(dict(spec.functions)))
        if inspect.isroutine(function) or isinstance(function, type):  # compiled
            owner = getattr(function, "__self__", None)
            return (_name(function), () if owner is None else self.of(owner))
        called = type(function).__call__
        code = (_text(called), self.of_callable(called)) if isinstance(called, FunctionType) else ()
        name = getattr(function, "__name__", "")  # of a ufunc
        return (_name(type(function)), name, *code, self.of(dict(_attributes(function))))

    def _of_function(self, function: FunctionType) -> Words:
        found: list[Words] = []
        if function.__defaults__:
            found.append(("defaults", self.of(function.__defaults__)))
        if function.__kwdefaults__:
            found.append(("defaults by name", self.of(function.__kwdefaults__)))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            found.append((name, self.of(_content(cell))))
        if syntax(function.__code__) is None:
            found.append(("names", *_names(function.__code__)))
        return tuple(found)

    def of(self, value: Any) -> Words:
        """Return a value in words."""
        if isinstance(value, type):
            return ("class", _name(value))
        if isinstance(value, ModuleType):
            return ("module", value.__name__)
        kind = _name(type(value))
        if isinstance(value, Enum):
            return (kind, value.name)
        for plain in PLAIN:
            if isinstance(value, plain):
                return (kind, plain.__repr__(value))
        if value is None or value is ... or isinstance(value, Number | PurePath | range):
            return (kind, str(value))
        if isinstance(value, re.Pattern):
            return (kind, repr(value.pattern), str(value.flags))
        if callable(value):
            return (_text(value), self.of_callable(value))
        if id(value) in self._within:
            return f"{len(self._within) - self._within.index(id(value))} up"
        self._within.append(id(value))
        try:
            return (kind, *self._parts(value))
        finally:
            self._within.pop()

    def _apart(self, value: Any) -> Words:
        """Return a value in words that do not depend on what is described before and after it."""
        apart = _Held()
        apart._met, apart._within = dict(self._met), list(self._within)
        return apart.of(value)

    def _parts(self, value: Any) -> Iterator[Words]:
        """What is in a container; nothing is known of what is in other objects."""
        if isinstance(value, list | tuple):
            yield from map(self.of, value)
        elif isinstance(value, set | frozenset):  # in an order of its own in each process
            yield from sorted((self._apart(one) for one in value), key=repr)
        elif isinstance(value, dict | MappingProxyType):
            keyed = sorted(((self._apart(key), one) for key, one in value.items()), key=lambda pair: repr(pair[0]))
            yield from ((key, self.of(one)) for key, one in keyed)
        elif isinstance(value, BaseModel):
            yield self.of(dict(value))
        elif is_dataclass(value):
            yield from ((field.name, self.of(getattr(value, field.name, None))) for field in fields(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes and slots of an object, without what it works out when it is first asked for."""
    own = getattr(value, "__dict__", {})
    for name in own:
        cached = isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property)
        if not cached and not name.startswith("__"):
            yield name, own[name]
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            is_private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{kind.__name__.lstrip('_')}{slot}" if is_private else slot
            if not name.startswith("__") and hasattr(value, name):
                yield name, getattr(value, name)


def _text(function: Any) -> str:
    """The code of one callable in words, without that of what it wraps."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return _name(type(function))
    return syntax(code) or repr(compiled(code))


def _names(code: CodeType) -> list[str]:
    """The names that compiled code goes by: two methods of a value look alike in it without."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]


def _constant(value: Any) -> str:
    return f"frozenset({sorted(map(repr, value))})" if isinstance(value, frozenset) else repr(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return ...  # nothing is in it yet


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{thing.__qualname__}"
