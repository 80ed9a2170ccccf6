"""Preloaded by workers whose engines hang when they are closed, as one does whose thread is stuck."""

from __future__ import annotations

import asyncio
from typing import Any

from dask_fmware.testing import ScriptedEngine
from dask_fmware_workers import host


async def hang(self: Any) -> None:
    await asyncio.Event().wait()


def dask_setup(worker: Any) -> None:
    """Let engines hang, and do not wait for them for long."""
    host.CLOSE_S = 0.2
    ScriptedEngine.close = hang  # type: ignore[method-assign]
