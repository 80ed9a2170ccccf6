"""Replicas on leave: for a while they get no calls, because somebody measures their card or is about to stop them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dask_fmware.model.replica import Replica
from dask_fmware.runtime import ReplicaDraining

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Leave"]

PROVISIONER = "the provisioner"
Place: TypeAlias = tuple[Literal["card", "worker"], str]  # a card by its name, a worker by its address


class Leave:
    """Leases on the absence of replicas, since whoever asked for one may die; a `Service`.

    A card is leased with all that is on it and all that comes to it, a worker with its replica. A replica is back in
    routing when the last lease on either has ended. A card is measured by one at a time.
    """

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._ends: dict[Place, dict[str, asyncio.TimerHandle]] = {}  # by holder

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

    def measure(self, card: str, lease_s: float, holder: str) -> dict[str, Any]:
        """Give a card to somebody who measures it, unless another does (RPC).

        Returns
        -------
        dict
            ``measured_by``, the other, or "" and in ``calls`` the calls that still run on the card.
        """
        others = self._ends.get(("card", card), {}).keys() - {holder}
        if others and lease_s > 0:
            return {"measured_by": min(others), "calls": 0}
        self._lease(("card", card), lease_s, holder)
        calls = [len(state.running) for state in self._router.machine.fleet if state.replica.card == card]
        return {"measured_by": "", "calls": sum(calls)}

    def drain(self, workers: list[str], lease_s: float) -> None:
        """Give these replicas no calls for `lease_s` seconds, for the provisioner; 0 ends its leases, no others."""
        for worker in workers:
            self._lease(("worker", worker), lease_s, PROVISIONER)

    def has(self, replica: Replica) -> bool:
        """Whether a replica is on leave, whatever becomes of its worker and engine meanwhile."""
        return ("worker", replica.replica_id) in self._ends or ("card", replica.card) in self._ends

    def _lease(self, place: Place, lease_s: float, holder: str) -> None:
        if (end := self._ends.get(place, {}).pop(holder, None)) is not None:
            end.cancel()
        if lease_s <= 0:
            self._return(place, holder)
            return
        end = asyncio.get_running_loop().call_later(lease_s, self._return, place, holder)
        self._ends.setdefault(place, {})[holder] = end
        for replica in self._at(place):
            self._router.take(ReplicaDraining(replica.replica_id))

    def _return(self, place: Place, holder: str) -> None:
        left = self._ends.get(place, {})
        left.pop(holder, None)
        if left:
            return
        self._ends.pop(place, None)
        for replica in self._at(place):
            if self._router.is_offered(replica):
                self._router.take(ReplicaDraining(replica.replica_id, False))

    def _at(self, place: Place) -> list[Replica]:
        kind, name = place
        replicas = [state.replica for state in self._router.machine.fleet]
        return [replica for replica in replicas if name == (replica.card if kind == "card" else replica.replica_id)]
