"""The service that remembers what the machine did, and lends it to those who look: page, metrics, explanations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dask.config

from dask_fmware.model.report import RunReport
from dask_fmware.observe import History, Neighbour, worst_wait
from dask_fmware.observe.exposition import Family, expose, withdraw
from dask_fmware.observe.failed import failed_in_words
from dask_fmware.observe.figures import Figures
from dask_fmware_scheduler.dashboard.board import Board
from dask_fmware_scheduler.dashboard.dask_internals import DashboardInternals
from dask_fmware_scheduler.dashboard.mounting import mount
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.engine_states import EngineStates
from dask_fmware_scheduler.services.metrics import series
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from dask_fmware_scheduler.services.turns import Turns

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["Observing"]

NEIGHBOURS = 1000  # runs that were dropped last, among which an explanation looks for what a run waited for
CALLS = 100  # of a run that are looked at between two looks at the clock


class Observing:
    """History of the machine, and what shows it.

    Parameters
    ----------
    router
        Whose machine is watched.
    """

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self.history = History(router.machine)
        accelerators = router.deployment.accelerators
        prices = {name: card.price_per_hour for name, card in accelerators.items() if card.price_per_hour is not None}
        self._wanted = Counter((replica.model, replica.accelerator) for replica in router.deployment.replicas())
        self.board = Board(Figures(self.history, prices, self._kv_used), router.clock, self._beside)
        self._web = DashboardInternals(router.dask.scheduler)

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """Answer ``fmware_explain``."""
        return {"fmware_explain": self.explain}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """None."""
        return {}

    def start(self) -> None:
        """Watch the machine, and show it unless that is switched off."""
        self._router.machine.observers.append(self.history)
        if dask.config.get("fmware.dashboard.enabled", True):
            mount(self._web, self.board)
        expose(self._series)

    def close(self) -> None:
        """Show nothing any more."""
        withdraw(self._series)
        self._web.unmount()

    def _series(self) -> Iterator[Family]:
        models = self._router.deployment.models.items()
        kinds = [(name, accelerator) for name, model in models for accelerator in model.on]
        return series(self.history, self._router.clock(), self._router.service(Arrivals).failed, kinds)

    async def explain(self, run_id: str) -> dict[str, Any] | None:
        """Return what `dask_fmware.observe.explain` takes: a report, what it waited for, the time (RPC)."""
        report, now = self._router.machine.report(run_id), self._router.clock()
        if report is None:
            return None
        told = report.to_wire()  # as it is at this time: the run goes on while its neighbours are sought
        neighbours = await self._neighbours(report, now)
        return {"report": told, "neighbours": [asdict(n) for n in neighbours], "now": now}

    async def _neighbours(self, report: RunReport, now: float) -> tuple[Neighbour, ...]:
        """Return what a run waited for; all calls of a thousand runs are looked at, which takes seconds."""
        wait, turns = worst_wait(report, now), Turns()
        if wait is None:
            return ()
        for found in self._router.machine.runs.under_way_since(wait.begins_at, NEIGHBOURS):
            other = found if isinstance(found, RunReport) else RunReport.unpacked(found)
            for first in range(0, len(other.calls), CALLS):
                wait.add(other, other.calls[first : first + CALLS])
                await turns.next()
        return wait.neighbours

    def _kv_used(self, replica_id: str) -> float | None:
        return self._router.service(EngineStates).kv_used(replica_id)

    def _beside(self) -> dict[str, Any]:
        """What the page shows that the machine does not know."""
        return {
            "failed": failed_in_words(self._router.service(Arrivals).failed.values()),
            "light_workers": len(self._router.placement.light),
            "faults": dict(self._router.failures),
            "clock_set_s": round(self._router.clock.set_by_s, 1),  # as the page is read beside the wall clock
            "missing": self._missing(),
            **self._provisioning(),
        }

    def _missing(self) -> list[str]:
        """Replicas of the deployment that are not there; none where they are provisioned, whose numbers are shown."""
        if self._router.service(ProvisioningService).status() is not None:
            return []
        there = Counter((one.replica.model, one.replica.accelerator) for one in self._router.machine.fleet)
        return [f"{count:,} of {model} on {card}" for (model, card), count in (self._wanted - there).items()]

    def _provisioning(self) -> dict[str, Any]:
        """Three numbers of replicas by kind, and why so many; None while nobody provisions."""
        service = next((s for s in self._router.services if isinstance(s, ProvisioningService)), None)
        state = service.status() if service is not None else None
        if state is None:
            return {"provisioning": None, "provisioner": None}
        keys = ("mode", "cost_per_hour", "error")
        return {
            "provisioning": [{**kind, "reason": state["reasons"].get(kind["model"], "")} for kind in state["replicas"]],
            "provisioner": {key: state[key] for key in keys},
        }
