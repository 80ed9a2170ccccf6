"""What functions that travel by value use of their module, so that a change of it is seen.

A function of a notebook or script is pickled with the helpers and constants that it names. The bytes are as good as
these: a cell that is run again binds its names anew, and then they are made again. A method brings its class along, and
so does whatever names a class of the notebook or an object of one. A constant that is changed in place is not noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from dask_fmware.spec.calls import Task

__all__ = ["by_value", "surroundings"]


def by_value(held: Iterable[Any]) -> tuple[FunctionType, ...]:
    """Return the functions of notebooks and scripts among some objects, and those of such classes among them."""
    return tuple(f for one in held for f in _functions(one) if f.__globals__.get("__name__") == "__main__")


def surroundings(functions: Iterable[FunctionType]) -> list[Any]:
    """Return what they name, and what the functions of notebooks and scripts among that name."""
    found: list[Any] = []
    waiting, seen = list(functions), set[int]()
    while waiting:
        function = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        named = [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
        named += _cells(function)
        found += named
        waiting += by_value(named)
    return found


def _functions(held: Any) -> Iterator[FunctionType]:
    """Functions of an object, and of its class or of a class, if it is one of a notebook; the object is not asked."""
    if isinstance(held, Task):
        held = held.function
    yield from _code(held)
    if isinstance(held, MethodType):
        held = held.__self__
    for base in (held if isinstance(held, type) else type(held)).__mro__:
        if base.__module__ == "__main__":
            for member in vars(base).values():
                yield from _code(member)


def _code(held: Any) -> Iterator[FunctionType]:
    """Return the functions of a function, method, task or property, and those behind decorators."""
    for part in (held.fget, held.fset, held.fdel) if isinstance(held, property) else (held,):
        while isinstance(part, FunctionType | MethodType | Task | staticmethod | classmethod):
            if isinstance(part, FunctionType):
                yield part
            part = part.__func__ if isinstance(part, MethodType) else getattr(part, "__wrapped__", None)


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function and those inside it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned so far
            continue
