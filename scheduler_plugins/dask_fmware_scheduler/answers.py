"""Tells clients where the answer of a run is being generated, so that they can stream it from there."""

from __future__ import annotations

import asyncio
from typing import Any

from dask_fmware.runtime import Machine

__all__ = ["AnswerBoard"]

UNKNOWN_PATIENCE_S = 2.0  # a poll overtakes the graph of its run by milliseconds


class AnswerBoard:
    """Long polls of clients, woken when the answer of their run starts or the run ends."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    def wake(self, run_id: str) -> None:
        """Something happened to the answer of a run."""
        for waiter in self._waiting.pop(run_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Let nobody wait any more: Dask closes when all have been answered, and nothing wakes them but this.

        It cancels them besides, but `asyncio.wait_for` loses that where a run is dropped in the same moment.
        """
        self._closed = True
        for run_id in list(self._waiting):
            self.wake(run_id)

    async def find(self, run_id: str, after: int = 0, patience_s: float = 20.0) -> dict[str, Any]:
        """Return where the answer's attempt later than number `after` runs (RPC, long poll).

        The answer is a dictionary with ``worker``, ``call_id`` and ``attempt``; or with ``ended`` (the
        state of the run) if there is no such attempt; or with ``waiting`` after `patience_s` seconds. A
        run that is not known is waited for a little: the poll may overtake its graph.
        """
        if self._machine.report(run_id) is None:
            patience_s = min(patience_s, UNKNOWN_PATIENCE_S)
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            report = self._machine.report(run_id)
            for call in report.calls if report is not None else ():
                last = call.last
                if (
                    call.answers
                    and last is not None
                    and last.attempt > after
                    and last.outcome in ("running", "finished")
                ):
                    return {"worker": last.replica_id, "call_id": call.call_id, "attempt": last.attempt}
            if report is not None and report.state != "running":
                return {"ended": report.state}
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._closed:
                return {"waiting": True}
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(run_id, set()).add(waiter)
            try:
                await asyncio.wait_for(waiter, left)
            except TimeoutError:
                pass
            finally:
                self._waiting.get(run_id, set()).discard(waiter)
                if not self._waiting.get(run_id):
                    self._waiting.pop(run_id, None)
