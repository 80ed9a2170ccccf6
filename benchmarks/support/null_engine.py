"""An engine that answers every request with one token at once, so that only the layers around it cost.

Importing this module, as a worker does that has it as a preload, makes it known as ``null``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request, Usage
from dask_fmware_workers.engines import ENGINES

__all__ = ["NullEngine"]


class NullEngine:
    """Answers at once."""

    def __init__(self, *, slots: int, context_tokens: int) -> None:
        self.capabilities = Capabilities("null", "1", slots, context_tokens)

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream one token."""
        yield Delta("x", 1, "stop", Usage(1, 1))

    async def abort(self, request_id: str) -> None:
        """Nothing runs."""

    async def count_tokens(self, request: Request) -> int:
        """Every prompt has one token."""
        return 1

    def state(self) -> EngineState:
        """Nothing runs."""
        return EngineState()

    async def close(self) -> None:
        """Nothing to free."""


ENGINES["null"] = "benchmarks.support.null_engine:NullEngine"
