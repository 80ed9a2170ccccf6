"""What the router has been told of this worker: that it is there, which replica it is, why it is none.

Scheduler and worker may start in either order: whoever comes second finds the other. What the worker serves, and what
is done about a failure, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from typing import Any

from dask_fmware.errors import FMwareError, VersionMismatchError
from dask_fmware.model.messages import PROTOCOL_VERSION, ReplicaFailed, ReplicaReady, check_version
from dask_fmware_workers.dask_internals import WorkerInternals
from dask_fmware_workers.loading import Labels

__all__ = ["FIRST_RETRY_S", "LAST_RETRY_S", "Presence"]

logger = logging.getLogger("dask_fmware.host")

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0


class Presence:
    """This worker, as the router knows it.

    Parameters
    ----------
    dask
        The worker.
    labels
        What it is to host.
    replica
        Gives the replica that it is at this moment; None while it is none.
    connected
        Called when a router has spoken to it.
    """

    def __init__(
        self,
        dask: WorkerInternals,
        labels: Labels,
        replica: Callable[[], ReplicaReady | None],
        connected: Callable[[], None],
    ) -> None:
        self._dask, self._labels, self._replica, self._connected = dask, labels, replica, connected
        self.is_known = False  # a router has spoken to us
        self._announcing: set[asyncio.Task[None]] = set()  # to routers that came after us

    async def announce(self) -> None:
        """Tell the router that we are there; if there is none yet, it will ask when it comes."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                answer = await self._dask.ask_scheduler("fmware_announce", **self._identity())
                if isinstance(answer, dict) and "version" in answer:
                    self._hear(answer["version"])
                return
            except OSError as error:
                logger.warning("Worker '%s' could not announce itself (%r); it tries again", self._dask.name, error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_RETRY_S)

    def greeted(self, version: int) -> None:
        """A router came after us: announce ourselves to it."""
        if self._hear(version):
            announcing = asyncio.ensure_future(self.announce())
            self._announcing.add(announcing)
            announcing.add_done_callback(self._announcing.discard)

    async def announce_failure(self, error: Exception, *, will_retry: bool, incarnation: int) -> None:
        """Tell the router, be it the first that it hears of us, why we are no replica."""
        if not self.is_known:
            await self.announce()
        self.tell_failure(error, will_retry=will_retry, incarnation=incarnation)

    def tell_failure(self, error: Exception, *, will_retry: bool, incarnation: int) -> None:
        """Tell a router that knows us why we are no replica any more."""
        text = str(error) if isinstance(error, FMwareError) else f"{type(error).__name__}: {error}"
        labels = self._labels
        where = "" if isinstance(error, FMwareError) else "\n" + "".join(traceback.format_tb(error.__traceback__))
        logger.error("Worker '%s' does not serve model '%s': %s%s", self._dask.name, labels.model, text, where)
        if self.is_known:
            failed = ReplicaFailed(
                self._dask.name,
                labels.model or "",
                labels.accelerator or "",
                text,
                will_retry=will_retry,
                incarnation=incarnation,
            )
            self._dask.send(failed.to_wire())

    def close(self) -> set[asyncio.Task[None]]:
        """Announce nothing more; return what has yet to end."""
        for announcing in self._announcing:
            announcing.cancel()
        return set(self._announcing)

    def _hear(self, version: int) -> bool:
        """Take note of a router; return whether it speaks our version."""
        try:
            check_version(version, "the scheduler")
        except VersionMismatchError as error:
            logger.error("Worker '%s' cannot serve: %s", self._dask.name, error)
            return False
        self.is_known = True
        self._connected()
        return True

    def _identity(self) -> dict[str, Any]:
        replica, told = self._replica(), None
        if replica is not None:
            told = replica.to_wire()
            del told["op"]
        return {"worker": self._dask.address, "version": PROTOCOL_VERSION, "replica": told}
