"""Turns of the scheduler's loop: who answers a question about thousands of runs lets the others go on meanwhile."""

from __future__ import annotations

import asyncio

from distributed.metrics import monotonic

__all__ = ["TURN_S", "Turns"]

TURN_S = 0.002  # for which the scheduler's loop is kept at once


class Turns:
    """Those of one answer; the first begins at once."""

    def __init__(self) -> None:
        self._until = monotonic() + TURN_S

    async def next(self) -> None:
        """Let the loop go on if this turn has been long enough."""
        if monotonic() > self._until:
            await asyncio.sleep(0)
            self._until = monotonic() + TURN_S
