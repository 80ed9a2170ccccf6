"""Tasks that call what is in this process, for clusters whose workers are in it too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

local: dict[str, Callable[[], Awaitable[Any]]] = {}


async def call_local(name: str, after: Any = None) -> Any:
    """As a task: call a coroutine function of this process, which is not copied."""
    return await local[name]()
