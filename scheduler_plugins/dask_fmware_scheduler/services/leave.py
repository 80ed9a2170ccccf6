"""Replicas on leave: for a while they get no calls, because somebody measures them or is about to stop them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dask_fmware.runtime import ReplicaDraining

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Leave"]

PROVISIONER = "the provisioner"


class Leave:
    """Leases on the absence of replicas, since whoever asked for one may die; a `Service`.

    A replica is back in routing when the last of its leases has ended. It is measured by one at a time.
    """

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._ends: dict[str, dict[str, asyncio.TimerHandle]] = {}  # by worker, by holder

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """Answer ``fmware_drain``."""
        return {"fmware_drain": self.measure}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Nobody is on leave yet."""

    def close(self) -> None:
        """Let no lease end any more."""
        for ends in self._ends.values():
            for end in ends.values():
                end.cancel()

    def measure(self, workers: list[str], lease_s: float, holder: str) -> dict[str, Any]:
        """Give these replicas to somebody who measures, unless another measures one of them (RPC).

        Returns
        -------
        dict
            ``measured_by``, the other, or "" and in ``calls`` the calls that still run on all of them.
        """
        others = {other for worker in workers for other in self._ends.get(worker, ())} - {holder, PROVISIONER}
        if others and lease_s > 0:
            return {"measured_by": min(others), "calls": 0}
        self.drain(workers, lease_s, holder)
        states = [self._router.machine.fleet.get(worker) for worker in workers]
        return {"measured_by": "", "calls": sum(len(state.running) for state in states if state is not None)}

    def drain(self, workers: list[str], lease_s: float, holder: str = PROVISIONER) -> None:
        """Give these replicas no calls for `lease_s` seconds; 0 ends the lease of this holder, and only that."""
        for worker in workers:
            if (end := self._ends.get(worker, {}).pop(holder, None)) is not None:
                end.cancel()
            if lease_s > 0:
                end = asyncio.get_running_loop().call_later(lease_s, self._return, worker, holder)
                self._ends.setdefault(worker, {})[holder] = end
                self._router.take(ReplicaDraining(worker))
            else:
                self._return(worker, holder)

    def has(self, worker: str) -> bool:
        """Whether a replica is on leave, whatever becomes of its worker and engine meanwhile."""
        return worker in self._ends

    def _return(self, worker: str, holder: str) -> None:
        left = self._ends.get(worker, {})
        left.pop(holder, None)
        if left:
            return
        self._ends.pop(worker, None)
        if self._router.dask.takes_tasks(worker):
            self._router.take(ReplicaDraining(worker, False))
