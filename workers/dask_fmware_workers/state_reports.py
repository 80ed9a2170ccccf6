"""Tells the scheduler what this worker's engine says of its load, a few times a second while it changes.

An engine that does nothing says nothing. What is sent holds counts and shares only. Asking also shows that an idle
engine has died, before a call finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dask_fmware.errors import EngineCrashedError
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
    crashed
        Called when the engine says that it has died.
    """

    def __init__(
        self, send: Callable[[dict[str, Any]], None], crashed: Callable[[Engine, EngineCrashedError], None]
    ) -> None:
        self._send, self._crashed = send, crashed
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
            try:
                state = engine.state()
            except EngineCrashedError as error:
                return self._crashed(engine, error)
            if state != told:
                self._send(EngineStateReport.of(state).to_wire())
                told = state
            await asyncio.sleep(INTERVAL_S)
