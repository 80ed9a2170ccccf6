"""Passes the steps that workers time to the machine, and tells people of replicas that run off their profile.

The machine learns and decides; this service has the words: a warning in the log and an event of the Dask scheduler
(`EVENTS`) when a replica leaves its profile and when it is back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dask_fmware.model.messages import StepsTimed
from dask_fmware.model.replica import Replica
from dask_fmware.profile.drift import Drift
from dask_fmware.runtime import Action, Event, ReplicaGone, ReplicaReady

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["EVENTS", "DriftWatch", "drift_sentence"]

EVENTS = "fmware-drift"  # topic of events: client.subscribe_topic, client.get_events

logger = logging.getLogger("dask_fmware.router")


def drift_sentence(replica: Replica, drift: Drift) -> str:
    """Say how far a replica runs off its profile, and since when, on the clock of this machine."""
    since = datetime.fromtimestamp(drift.since_s)
    today = since.date() == datetime.now().date()
    return drift.sentence(replica.name, replica.accelerator, since.strftime("%H:%M" if today else "%Y-%m-%d %H:%M"))


class DriftWatch:
    """Tells when a replica leaves its profile and when it is back; a `Service` and an observer of the machine."""

    watches = frozenset({StepsTimed, ReplicaGone, ReplicaReady})

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._told: dict[str, bool] = {}  # replicas that run off their profile -> whether they are slower
        self._running = False

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """Nothing to ask; `fmware_status` shows drifts."""
        return {}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """Steps of engines."""
        return {StepsTimed.op: self._on_steps}

    def start(self) -> None:
        """Watch the machine."""
        self._running = True
        self._router.machine.observers.append(self)

    def close(self) -> None:
        """Watch no more."""
        self._running = False
        self._router.machine.observers.remove(self)

    def _on_steps(self, worker: str, **message: Any) -> None:
        if self._running:
            self._router.take(StepsTimed.from_wire(message))

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Compare a replica that was timed with what was told of it; what was told of an engine before says nothing."""
        match event:
            case ReplicaGone(replica_id):
                self._told.pop(replica_id, None)
            case ReplicaReady(replica):
                self._told.pop(replica.replica_id, None)
            case StepsTimed() if event.steps:
                self._compare(event.replica_id)

    def _compare(self, replica_id: str) -> None:
        state = self._router.machine.fleet.get(replica_id)
        if state is None:
            return
        drift = self._router.machine.fleet.corrections.drift(replica_id)
        told = self._told.get(replica_id)
        if drift is None and told is not None:
            del self._told[replica_id]
            self._tell(
                state.replica,
                f"replica {state.replica.name} on {state.replica.accelerator} runs at the pace of its profile again",
            )
        elif drift is not None and told is not (drift.ratio > 1.0):
            self._told[replica_id] = drift.ratio > 1.0
            self._tell(state.replica, drift_sentence(state.replica, drift), drift)

    def _tell(self, replica: Replica, text: str, drift: Drift | None = None) -> None:
        logger.log(logging.WARNING if drift is not None and drift.ratio > 1.0 else logging.INFO, "%s", text)
        self._router.dask.log_event(
            EVENTS,
            {
                "worker": replica.replica_id,
                "replica": replica.name,
                "model": replica.model,
                "accelerator": replica.accelerator,
                "ratio": drift.ratio if drift is not None else 1.0,
                "since": drift.since_s if drift is not None else None,
                "text": text,
            },
        )
