"""An engine that fails when it is told to, around one that would not: crash, hang, take all memory, or end its process.

Importing this module, as a worker does that has it as a preload, makes it known as ``faulty``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import psutil

from dask_fmware.errors import EngineCrashedError
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request
from dask_fmware_workers.engines import ENGINES, create_engine

__all__ = ["POISON", "FaultyEngine"]

POISON = "end this process"  # in a prompt, which then does so after its first piece
MEMORY_BYTES = 128 << 20  # that a process may take beyond what it has when it is told to take all


class FaultyEngine:
    """Any engine, with faults.

    Parameters
    ----------
    inner, arguments
        The engine that serves, and what it is made with.
    slots, context_tokens, cores
        Passed on.
    """

    def __init__(
        self,
        *,
        inner: str,
        arguments: Mapping[str, Any],
        slots: int,
        context_tokens: int,
        cores: Any = None,
    ) -> None:
        self._inner = create_engine(
            inner, {**arguments, "slots": slots, "context_tokens": context_tokens, "cores": cores}
        )
        self._crashed = self._hangs = False
        self._aborted: dict[str, asyncio.Event] = {}

    def crash(self) -> None:
        """Die, as a library does that raises from its loop."""
        self._crashed = True

    def hang(self) -> None:
        """Give no token any more, and say nothing of it."""
        self._hangs = True

    def exhaust(self) -> None:
        """Take memory until there is none, in a thread: the process is bounded first, so no other is harmed."""
        threading.Thread(target=_exhaust, daemon=True).start()

    @property
    def capabilities(self) -> Capabilities:
        """Those of the engine inside."""
        return self._inner.capabilities

    async def start(self) -> None:
        """Start the engine inside."""
        await self._inner.start()

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream from the engine inside, until a fault."""
        text = request.prompt or "".join(message.content for message in request.messages or ())
        aborted = self._aborted[request.request_id] = asyncio.Event()
        try:
            self._check()
            async with aclosing(self._inner.generate(request)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    self._check()
                    if self._hangs:
                        await aborted.wait()
                        yield Delta("", 0, "abort")
                        return
                    yield delta
                    if POISON in text:
                        os.kill(os.getpid(), signal.SIGSEGV)
        finally:
            del self._aborted[request.request_id]

    def _check(self) -> None:
        if self._crashed:
            raise EngineCrashedError("faulty: the engine was told to crash")

    async def abort(self, request_id: str) -> None:
        """Abort in the engine inside, and what hangs."""
        if (event := self._aborted.get(request_id)) is not None:
            event.set()
        await self._inner.abort(request_id)

    async def count_tokens(self, request: Request) -> int:
        """As the engine inside counts."""
        return await self._inner.count_tokens(request)

    def state(self) -> EngineState:
        """Of the engine inside."""
        self._check()
        return self._inner.state()

    async def close(self) -> None:
        """Close the engine inside."""
        await self._inner.close()


def _exhaust() -> None:
    """Allocate until that is refused, and end as an uncaught ``std::bad_alloc`` does."""
    bound = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    taken = []
    try:
        while True:
            taken.append(bytearray(1 << 24))
    except MemoryError:
        os.abort()


ENGINES["faulty"] = "benchmarks.support.faulty_engine:FaultyEngine"
