"""The executor of the resource provisioner: beside the cluster object, it asks the scheduler what to start and stop.

It keeps no state that matters: a new one, on a cluster object that was made anew, finds its replicas by their names.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from distributed.deploy.adaptive import Adaptive

from dask_fmware.cluster.backends import Backend
from dask_fmware.cluster.dask_internals import REPLACED
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Provisioner"]

logger = logging.getLogger("dask_fmware.provisioning")

OVER_S = 5.0  # that a scheduler may take to hear of the end


class Provisioner(Adaptive):  # type: ignore[misc]
    """Starts and stops the replicas of a cluster as its scheduler plans; returned by ``cluster.adapt``.

    Parameters
    ----------
    cluster
        A cluster with the runtime installed.
    backend
        How its workers are started and stopped.
    options
        Bounds, patience, mode; None for those of the deployment.
    """

    def __init__(self, cluster: Any, backend: Backend, options: Provisioning | None = None) -> None:
        self.backend = backend
        self.options = options or Provisioning()
        self.manager = f"{type(cluster).__name__}-{uuid.uuid4().hex[:8]}"
        self.error: str | None = None  # why there is no plan now
        self._has_begun = False
        self._is_replaced = False
        self._looking = asyncio.Lock()
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._closing: asyncio.Task[None] | None = None
        super().__init__(cluster, interval=self.options.interval_s)

    async def target(self) -> int:
        """Not asked: a number of workers says nothing of models and cards."""
        return len(self.cluster.worker_spec)

    async def adapt(self) -> None:
        """Look once: ask for steps and do them."""
        if self._looking.locked():
            return
        async with self._looking:
            try:
                await self._adapt()
            except OSError as error:
                self._complain(f"the scheduler does not answer ({error})")

    async def look(self) -> None:
        """Look at once, if the cluster is there already."""
        if self.cluster.scheduler_comm is not None:
            await self.adapt()

    async def _adapt(self) -> None:
        answer: Mapping[str, Any] | None = await self.scheduler.fmware_provision(
            manager=self.manager,
            requested=self.backend.requested(),
            pools=self.backend.pools(),
            options=None if self._has_begun else self.options.model_dump_json(),
        )
        if self.state == "stopped":  # meanwhile; its cluster may be closing
            return
        if answer is None:  # Dask's answer to an RPC that nobody serves
            self._has_begun = False
            self._complain("the cluster has no dask-fmware runtime; call fm.install(client, deployment)")
            return
        if answer.get("is_over"):
            logger.warning("Provisioner %s stops: %s", self.manager, answer["error"])
            self.stop(reason=REPLACED)
            return
        if answer.get("wants_options"):
            self._has_begun = False
        elif "error" in answer:
            self._complain(str(answer["error"]))
        else:
            self.error, self._has_begun = None, True
        for model, accelerator, count in answer.get("sizes", ()):
            self.backend.resize(model, accelerator, count)
        for step in answer.get("steps", ()):
            self._do(step)

    def _do(self, step: Mapping[str, Any]) -> None:
        self.log.append((float(step["at"]), dict(step)))
        if step["step"] == "start":
            if not self.backend.start(step["model"], step["accelerator"]):
                logger.info("No place for %s on %s yet", step["model"], step["accelerator"])
        elif step["step"] == "stop" and step["replica"] not in self._stopping:
            task = asyncio.ensure_future(self._stop(step))
            self._stopping[step["replica"]] = task
            task.add_done_callback(lambda _: self._stopping.pop(step["replica"], None))

    async def _stop(self, step: Mapping[str, Any]) -> None:
        name = step["replica"]
        try:
            await self.backend.stop(name, step["model"], step["accelerator"], step["worker"])
        except Exception as error:
            logger.error("Replica %s could not be stopped, tried again: %r", name, error)

    def _complain(self, error: str) -> None:
        if error != self.error:
            logger.error("No plan: %s", error)
        self.error = error

    def stop(self, reason: str = "unknown") -> None:
        """Start and stop nothing any more; what is there stays. Callable from any thread."""
        super().stop(reason=reason)
        self._is_replaced = reason == REPLACED
        self.loop.add_callback(self._end)  # of the cluster, as the tasks that it is to end

    def _end(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        for task in list(self._stopping.values()):
            task.cancel()
        await self.backend.close()
        if self.scheduler is not None and not self._is_replaced:
            with suppress(OSError, TimeoutError):  # its cluster may be closing
                await asyncio.wait_for(self.scheduler.fmware_provision_over(manager=self.manager), OVER_S)

    async def ready(self) -> None:
        """Wait for the first answer of the scheduler.

        Raises
        ------
        RuntimeFaultError
            The runtime is not installed, or the options cannot be planned with.
        """
        await self.adapt()
        if self.error is not None:
            raise RuntimeFaultError(self.error)
