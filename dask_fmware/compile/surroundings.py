"""What code that travels by value uses of its module, so that a change of it is seen.

A function of a notebook or script is pickled with the helpers and constants that it names, also in containers and in
objects and classes of the notebook. The bytes are as good as these: a cell that is run again binds its names anew, and
then they are made again. That a constant was changed in place may go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from dask_fmware.spec.calls import Task
from dask_fmware.spec.reach import behind, reach

__all__ = ["by_value", "surroundings"]

MOST = 300  # items of containers that are looked at for each task of a run; those of helpers are small


def by_value(held: Iterable[Any]) -> tuple[Any, ...]:
    """Return those of some objects that bring code of a notebook or script along."""
    return tuple(one for one in held if any(map(_travels, reach((one,), _behind, MOST))))


def surroundings(held: Iterable[Any]) -> list[Any]:
    """Return all that some objects bring along."""
    return list(reach(held, _behind, MOST))


def _travels(held: Any) -> bool:
    """Whether an object is a function that travels with what it names."""
    return isinstance(held, FunctionType) and held.__globals__.get("__name__") == "__main__"


def _behind(held: Any) -> Iterator[Any]:
    """Yield what an object brings along; objects of other modules are not asked."""
    match held:
        case FunctionType():
            if _travels(held):
                names = held.__globals__
                yield from (names[name] for name in _names(held.__code__) if name in names)
                yield from behind(held)
            else:
                yield held.__dict__.get("__wrapped__")  # behind a decorator
        case MethodType() | partial():
            yield from behind(held)
        case Task():
            yield held.function
        case property():
            yield from (held.fget, held.fset, held.fdel)
        case staticmethod() | classmethod():
            yield held.__func__
        case _:
            yield from _members(held)


def _members(held: Any) -> Iterator[Any]:
    """Yield what is in a class of a notebook, or in an object of one and in its class."""
    kind = held if isinstance(held, type) else type(held)
    own = [base for base in kind.__mro__ if base.__module__ == "__main__"]
    for base in own:  # pydantic's notes on a class are many, and made of what is in it
        yield from (member for name, member in list(vars(base).items()) if not name.startswith("__pydantic_"))
    if own and held is not kind:
        try:
            yield from list(object.__getattribute__(held, "__dict__").values())
        except AttributeError:  # of a class with slots
            pass


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function and those inside it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
