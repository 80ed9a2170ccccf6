"""Tells the scheduler what this worker's engine says of its load, a few times a second while it changes.

An engine that does nothing says nothing. What is sent holds counts and shares only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dask_fmware.model.engine import Engine, EngineState
from dask_fmware.model.messages import EngineStateReport

__all__ = ["StateReports"]

INTERVAL_S = 0.25


class StateReports:
    """Reports of one engine.

    Parameters
    ----------
    send
        Sends a message to the scheduler.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._task: asyncio.Task[None] | None = None

    def follow(self, engine: Engine) -> None:
        """Report on this engine from now on, and on no other."""
        self.stop()
        self._task = asyncio.ensure_future(self._follow(engine))

    def stop(self) -> None:
        """Report no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _follow(self, engine: Engine) -> None:
        told: EngineState | None = None
        while True:
            state = engine.state()
            if state != told:
                self._send(EngineStateReport.of(state).to_wire())
                told = state
            await asyncio.sleep(INTERVAL_S)
