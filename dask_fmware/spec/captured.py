"""Handles that a function brings along from around it: in its closure, its defaults, and functions that it calls.

Such a function would run with the handle instead of the value that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any

from dask_fmware.spec.reach import behind, reach
from dask_fmware.spec.recording import Value

__all__ = ["captured"]

MOST = 10_000  # items of containers that are looked at


def captured(function: Any) -> Value | None:
    """Return a handle that `function` refers to, if any."""
    return next((held for held in reach([function], _behind, MOST) if isinstance(held, Value)), None)


def _behind(held: Any) -> Iterable[Any]:
    if isinstance(held, FunctionType | MethodType | partial):
        return behind(held)
    return (getattr_static(held, "__wrapped__", None),)  # another task; what stands for an object is not asked
