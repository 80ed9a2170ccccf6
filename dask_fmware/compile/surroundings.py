"""What functions that travel by value use of their module, so that a change of it is seen.

A function of a notebook or script is pickled with the helpers and constants that it names. The bytes are as good as
these: a cell that is run again binds its names anew, and then they are made again. A constant that is changed in
place is not noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from dask_fmware.spec.calls import Task

__all__ = ["by_value", "surroundings"]


def by_value(functions: Iterable[Callable[..., Any]]) -> tuple[FunctionType, ...]:
    """Return the functions of notebooks and scripts among some."""
    return tuple(f for f in functions if isinstance(f, FunctionType) and f.__globals__.get("__name__") == "__main__")


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
        waiting += by_value(map(_unwrapped, named))
    return found


def _unwrapped(held: Any) -> Any:
    """Return the function in a task or behind a decorator; what stands for another object is not asked."""
    return getattr(held, "__wrapped__", held) if isinstance(held, FunctionType | Task) else held


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
