"""Parts of the runtime that live beside the router in the scheduler: each one a file, all started from here.

A service may answer RPCs of clients, take messages of workers, watch the machine as an observer, and
run in the background. It never routes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dask_fmware_scheduler.arrivals import Arrivals
from dask_fmware_scheduler.drift import DriftWatch
from dask_fmware_scheduler.engine_states import EngineStates
from dask_fmware_scheduler.leave import Leave
from dask_fmware_scheduler.observing import Observing
from dask_fmware_scheduler.provisioning import ProvisioningService
from dask_fmware_scheduler.recorder import Recorder
from dask_fmware_scheduler.reporting import Reporting
from dask_fmware_scheduler.traces import Traces
from dask_fmware_scheduler.unserved import Unserved

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["SERVICES", "Service"]


class Service(Protocol):
    """A part of the runtime beside the router."""

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """What clients and workers may ask, by name (``fmware_...``); answered until the service closes."""
        ...

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """Handlers of messages on the streams of workers, by ``op``; they outlive the service: check that it runs."""
        ...

    def start(self) -> None:
        """Begin; the router has its machine, but no worker has been greeted."""
        ...

    def close(self) -> None:
        """End what was begun; called once."""
        ...


SERVICES: tuple[Callable[[ReplicaRouter], Service], ...] = (
    Recorder,
    Arrivals,
    Leave,
    EngineStates,
    DriftWatch,
    Observing,
    Traces,
    ProvisioningService,
    Reporting,
    Unserved,
)
"""Makers of services, in the order in which they start."""
