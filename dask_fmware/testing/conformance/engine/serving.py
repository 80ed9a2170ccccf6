"""How a test starts an engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from dask_fmware.model.engine import Engine

__all__ = ["Serving"]

Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Engine]]
