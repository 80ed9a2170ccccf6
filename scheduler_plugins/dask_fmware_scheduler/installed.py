"""Whether a scheduler has the runtime, and how it is taken out.

Clients send these functions by name (`Client.run_on_scheduler`): a scheduler without the runtime has no RPC to ask.
"""

from __future__ import annotations

from distributed import Scheduler

from dask_fmware.compile.steps import HOST, HOST_GIVER
from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["ROUTER", "has_router", "take_out"]

ROUTER = "fmware-router"  # name of the scheduler plugin


def has_router(dask_scheduler: Scheduler) -> bool:
    """Whether there is a router."""
    return SchedulerInternals(dask_scheduler).plugin(ROUTER) is not None


async def take_out(dask_scheduler: Scheduler) -> None:
    """Remove what is there of router and hosts: by `install`, by preloads, or left by an installation that was cut off.

    It goes to its end, whatever becomes of the client. Hosts are known to their workers alone.
    """
    dask = SchedulerInternals(dask_scheduler)
    router = dask.plugin(ROUTER)
    has_hosts = router is not None or dask.gives_workers(HOST_GIVER)
    if router is not None:
        await router.uninstall()
        dask.remove_plugin(ROUTER)
    await dask.remove_worker_plugin(HOST_GIVER, unregistered=False)  # first: workers that come are given none
    await dask.remove_worker_plugin(HOST, unregistered=has_hosts)
