"""Values that are made by the thousand each second: frozen for the type checker, plain where they run.

A frozen dataclass sets each field by a call of ``object.__setattr__``, which makes it four times as slow: 2.5 us
for the view of a replica, and a decision makes several. mypy refuses to assign to a field of these all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

__all__ = ["immutable"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(kind: type[T]) -> type[T]:
    """Make a dataclass with slots, equality and hash by value, that nobody is to change.

    It is pickled as its values, without their names.

    Examples
    --------
    >>> @immutable
    ... class Point:
    ...     x: float
    ...     y: float = 0.0
    >>> Point(1.0) == Point(1.0, 0.0)
    True
    """
    made: Any = dataclass(slots=True, unsafe_hash=True)(kind)
    names = [f.name for f in fields(made)]
    if len(names) > 1:
        values: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)
    else:
        values = lambda self: tuple([getattr(self, name) for name in names])  # noqa: E731
    made.__reduce__ = lambda self: (made, values(self))
    return made  # type: ignore[no-any-return]
