"""How many calls of each node wait and run at this moment, counted as they change and never by looking at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

from dask_fmware.observe.blame import base_name
from dask_fmware.runtime.actions import Action, Refuse
from dask_fmware.runtime.events import (
    AttemptEnded,
    CallDropped,
    CallRunnable,
    CallWithdrawn,
    Event,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
)
from dask_fmware.runtime.machine import Machine

__all__ = ["Census", "Place"]

Place: TypeAlias = tuple[str, str, Literal["waiting", "running"]]  # workflow, node without item paths, state


OF_A_CALL = frozenset({CallRunnable, CallWithdrawn, CallDropped, AttemptEnded})


class Census:
    """Live calls by workflow, node and whether they wait or run.

    Parameters
    ----------
    machine
        Whose calls are counted; it keeps the truth, this only counts.
    """

    def __init__(self, machine: Machine) -> None:
        self.counts: Counter[Place] = Counter()
        self._machine = machine
        self._places: dict[str, Place] = {}

    def observe(self, event: Event, actions: Sequence[Action]) -> None:
        """Count again what an event and its actions may have moved."""
        kind, own = type(event), None
        if kind in OF_A_CALL:
            own = event.call_id  # type: ignore[union-attr]
            self._look(own)
        elif kind is ReplicaGone or kind is ReplicaReady:  # rare, and may have lost any number of attempts
            for call_id in [known for known, place in self._places.items() if place[2] == "running"]:
                self._look(call_id)
        elif isinstance(event, RunDropped):
            report = self._machine.report(event.run_id)
            gone = [call.call_id for call in report.calls] if report is not None else list(self._places)
            for call_id in gone:
                self._look(call_id)
        for action in actions:
            if not isinstance(action, Refuse) and action.call_id != own:
                self._look(action.call_id)

    def _look(self, call_id: str) -> None:
        call = self._machine.runs.calls.get(call_id)
        state = call.report.state if call is not None else ""
        known = self._places.get(call_id)
        if call is None or state not in ("held", "queued", "running"):
            if known is not None:
                del self._places[call_id]
                self._leave(known)
            return
        current: Literal["waiting", "running"] = "running" if state == "running" else "waiting"
        if known is not None:
            if known[2] == current:
                return
            self._leave(known)
            place = (known[0], known[1], current)
        else:
            place = (call.run.plan.workflow, base_name(call.node.name), current)
        self._places[call_id] = place
        self.counts[place] += 1

    def _leave(self, place: Place) -> None:
        self.counts[place] -= 1
        if not self.counts[place]:
            del self.counts[place]
