"""Replicas on leave: for a while they get no calls, because somebody measures them or is about to stop them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dask_fmware.runtime import ReplicaDraining

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Leave"]


class Leave:
    """Leases on the absence of replicas, since whoever asked for one may die; a `Service`."""

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._ends: dict[str, asyncio.TimerHandle] = {}  # by worker

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """Answer ``fmware_drain``."""
        return {"fmware_drain": self.drain}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Nobody is on leave yet."""

    def close(self) -> None:
        """Let no lease end any more."""
        for end in self._ends.values():
            end.cancel()

    def drain(self, workers: list[str], lease_s: float) -> dict[str, int]:
        """Give these replicas no calls for `lease_s` seconds, 0: again at once; return the calls on each (RPC)."""
        for worker in workers:
            if (end := self._ends.pop(worker, None)) is not None:
                end.cancel()
            if lease_s > 0:
                self._ends[worker] = asyncio.get_running_loop().call_later(lease_s, self._return, worker)
                self._router.take(ReplicaDraining(worker))
            else:
                self._return(worker)
        states = {worker: self._router.machine.fleet.get(worker) for worker in workers}
        return {worker: len(state.running) for worker, state in states.items() if state is not None}

    def _return(self, worker: str) -> None:
        self._ends.pop(worker, None)
        if self._router.dask.takes_tasks(worker):
            self._router.take(ReplicaDraining(worker, False))
