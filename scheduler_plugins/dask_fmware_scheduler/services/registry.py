"""What a service is, and which there are, in the order in which they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.drift import DriftWatch
from dask_fmware_scheduler.services.engine_states import EngineStates
from dask_fmware_scheduler.services.leave import Leave
from dask_fmware_scheduler.services.observing import Observing
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from dask_fmware_scheduler.services.recorder import Recorder
from dask_fmware_scheduler.services.reporting import Reporting
from dask_fmware_scheduler.services.traces import Traces
from dask_fmware_scheduler.services.unserved import Unserved

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
