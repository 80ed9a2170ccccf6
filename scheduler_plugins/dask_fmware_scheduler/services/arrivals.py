"""Replicas that come: workers announce them when their engine serves, or say why it does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dask_fmware.compile.steps import greet_host
from dask_fmware.model.messages import PROTOCOL_VERSION, ReplicaFailed, ReplicaReady, check_version
from dask_fmware.model.replica import MODEL_LABEL, read_label
from dask_fmware.runtime import ReplicaReady as ReplicaIsReady

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Arrivals"]

logger = logging.getLogger("dask_fmware.router")

GREETING_S = 30.0  # that a worker may take to answer
FIRST_AGAIN_S, LAST_AGAIN_S = 1.0, 60.0  # before it is greeted once more


class Arrivals:
    """Takes in replicas, and remembers those that failed; a `Service`."""

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self.failed: dict[str, dict[str, Any]] = {}  # worker -> what it said of its replica
        self.changed: Callable[[str], None] = lambda model: None  # told of models whose workers have changed

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """What workers tell and want answered."""
        return {"fmware_announce": self.announce}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """What workers tell."""
        return {ReplicaFailed.op: self._on_failed}

    def start(self) -> None:
        """Nobody has come yet."""

    def close(self) -> None:
        """Nothing to end."""

    async def greet(self, worker: str) -> None:
        """Tell a worker that there is a router, in case it announced itself before; again until it has heard or left.

        A host that was asked by nobody waits: without an answer it would never have calls, nor say why.
        """
        if (model := read_label(self._router.dask.resources(worker), MODEL_LABEL)) is not None:
            self.changed(model)
        again_s = FIRST_AGAIN_S
        while self._router.dask.is_known(worker):
            greeting = self._router.dask.run(worker, greet_host, version=PROTOCOL_VERSION)
            try:  # a host that comes later announces itself
                await asyncio.wait_for(greeting, GREETING_S)
                return
            except (OSError, TimeoutError) as error:
                logger.info("Worker %s did not answer the router's greeting, again in %g s: %r", worker, again_s, error)
            await asyncio.sleep(again_s)
            again_s = min(2.0 * again_s, LAST_AGAIN_S)

    def announce(self, worker: str, version: int, replica: dict[str, Any] | None) -> dict[str, Any]:
        """Take in a worker's model host and, if its engine serves, its replica (RPC)."""
        check_version(version, f"worker {worker}")
        if not self._router.dask.is_known(worker):
            return {"version": PROTOCOL_VERSION}
        self._router.carrier.worker_came(worker)
        if replica is not None:
            known, said = self._router.machine.fleet.get(worker), self.failed.get(worker)
            made = ReplicaReady.from_wire(replica).replica(worker)
            if said is not None and made.incarnation <= said["incarnation"]:
                return {"version": PROTOCOL_VERSION}  # its engine has died since, and that was heard first
            if known is not None and made.incarnation < known.replica.incarnation:
                return {"version": PROTOCOL_VERSION}  # and another was started
            self.failed.pop(worker, None)
            if known is None or known.replica != made:
                logger.info("Replica %s of model %s on %s is ready", made.name, made.model, made.accelerator)
                self._router.take(ReplicaIsReady(made, draining=not self._router.is_offered(made)))
                self._router.look_at(worker)
        return {"version": PROTOCOL_VERSION}

    def left(self, worker: str) -> None:
        """A worker is gone, and what it said with it."""
        if (said := self.failed.pop(worker, None)) is not None:
            self.changed(said["model"])

    def _on_failed(self, worker: str, **message: Any) -> None:
        failed = ReplicaFailed.from_wire(message)
        known = self._router.machine.fleet.get(worker)
        if known is not None and known.replica.incarnation > failed.incarnation:
            return  # its engine was started again, and that was heard first
        logger.warning("Replica %s of model %s failed: %s", failed.name, failed.model, failed.error)
        self.failed[worker] = asdict(failed)
        self._router.replica_gone(worker, failed.error)
        self.changed(failed.model)
