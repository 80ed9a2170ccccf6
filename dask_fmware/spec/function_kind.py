"""What calling a function gives instead of its value: a coroutine or a generator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["function_kind"]

KINDS: dict[str, Callable[[Any], bool]] = {
    "coroutine": inspect.iscoroutinefunction,
    "generator": lambda function: inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function),
}


def function_kind(function: Callable[..., Any]) -> str | None:
    """Return "coroutine" or "generator" for a function of that kind, asynchronous or not, and for a partial of one.

    >>> function_kind(print) is None
    True
    """
    call = vars(type(function)).get("__call__")  # of an object that is called like a function
    return next((kind for kind, is_one in KINDS.items() if is_one(function) or is_one(call)), None)
