"""The worker plugin that is registered with a scheduler: it gives each worker a model host, unless it has the same.

Dask takes out a plugin of the same name before it adds one. A worker that came with a host, by its preload, would
begin to load its engine twice; one that came with that of another deployment would serve other weights.
"""

from __future__ import annotations

from distributed import Worker, WorkerPlugin

from dask_fmware.compile.steps import HOST, HOST_GIVER
from dask_fmware.spec.deployment import Deployment
from dask_fmware_workers.dask_internals import WorkerInternals
from dask_fmware_workers.host import ModelHost

__all__ = ["HostGiver"]


class HostGiver(WorkerPlugin):  # type: ignore[misc]
    """Gives workers model hosts.

    Parameters
    ----------
    deployment, stream_interval_s
        Of each `ModelHost`.
    """

    name = HOST_GIVER
    idempotent = True

    def __init__(self, deployment: Deployment, *, stream_interval_s: float | None = None) -> None:
        self.deployment = deployment
        self.stream_interval_s = stream_interval_s

    async def setup(self, worker: Worker) -> None:
        """Add a host, instead of one of another deployment if that is there."""
        dask = WorkerInternals(worker)
        host: ModelHost | None = dask.plugin(HOST)
        if host is not None and host.deployment == self.deployment:
            return
        incarnation = host.replaced() if host is not None else 0
        await dask.add_plugin(
            ModelHost(self.deployment, stream_interval_s=self.stream_interval_s, incarnation=incarnation)
        )
