"""What engines last said of themselves, for whoever asks: people, dashboards, forecasts.

No routing depends on it: what the router has sent to a replica it knows itself, and sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dask_fmware.model.messages import EngineStateReport
from dask_fmware.runtime import Event, ReplicaGone
from dask_fmware.runtime.actions import Action

if TYPE_CHECKING:
    from dask_fmware_scheduler.router import ReplicaRouter

__all__ = ["EngineStates"]


class EngineStates:
    """The last report of each replica, by the address of its worker; a `Service` and an observer of the machine."""

    watches = frozenset({ReplicaGone})

    def __init__(self, router: ReplicaRouter) -> None:
        self._router = router
        self._last: dict[str, EngineStateReport] = {}

    def rpcs(self) -> Mapping[str, Callable[..., Any]]:
        """Answer ``fmware_engine_states``."""
        return {"fmware_engine_states": self.states}

    def messages(self) -> Mapping[str, Callable[..., Any]]:
        """Take the reports of workers."""
        return {EngineStateReport.op: self._on_report}

    def start(self) -> None:
        """Learn of replicas that go."""
        self._router.machine.observers.append(self)

    def close(self) -> None:
        """Forget what was said."""
        self._last.clear()

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """A replica that is gone says nothing any more."""
        if isinstance(event, ReplicaGone):
            self._last.pop(event.replica_id, None)

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the last report of each replica (RPC)."""
        return {worker: asdict(report) for worker, report in self._last.items()}

    def kv_used(self, worker: str) -> float | None:
        """Share of the KV cache of a replica that is in use, 0..1; None where its engine does not say."""
        last = self._last.get(worker)
        return last.kv_used if last is not None else None

    def _on_report(self, worker: str, **message: Any) -> None:
        self._last[worker] = EngineStateReport.from_wire(message)
