"""How many calls of each node wait and run at this moment: counted as they change, and only while somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

from dask_fmware.observe.blame import node_pattern
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
PATIENCE = 20_000  # events without a look, after which nobody counts any more


class _Seen(NamedTuple):
    """Where a call was when it was looked at last, and what takes it along when dropped."""

    place: Place
    run_id: str
    plan_id: str


class Census:
    """Live calls by workflow, node and whether they wait or run.

    The first look goes through all live calls; from then on what each event changes is counted, until nobody has
    looked for many events. So a look costs little however many calls wait, and nothing is spent while nobody looks.

    Parameters
    ----------
    machine
        Whose calls are counted; it keeps the truth, this only counts.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._left = 0  # events until counting ends
        self._counts: Counter[Place] = Counter()
        self._places: dict[str, _Seen] = {}  # by call
        self._of_plan: dict[str, set[str]] = {}  # run, or body of a map or loop -> its calls

    @property
    def counts(self) -> Counter[Place]:
        """Calls in each place at this moment; those that are with a replica ahead of its slot wait."""
        if not self._left:
            self._count_all()
        self._left = PATIENCE
        counts = self._counts.copy()
        for workflow, node, state in self._ahead():
            counts[workflow, node, state] -= 1
            counts[workflow, node, "waiting"] += 1
        return +counts

    def observe(self, event: Event, actions: Sequence[Action]) -> None:
        """Count again what an event and its actions may have moved."""
        if not self._left:
            return
        self._left -= 1
        if not self._left:
            self._forget_all()
            return
        kind, own = type(event), None
        if kind in OF_A_CALL:
            own = event.call_id  # type: ignore[union-attr]
            self._look(own)
        elif kind is ReplicaGone or kind is ReplicaReady:  # rare, and may have lost any number of attempts
            for call_id in [known for known, seen in self._places.items() if seen.place[2] == "running"]:
                self._look(call_id)
        elif isinstance(event, RunDropped):
            for call_id in tuple(self._of_plan.get(event.run_id, ())):
                self._look(call_id)
        for action in actions:
            if not isinstance(action, Refuse) and action.call_id != own:
                self._look(action.call_id)

    def _ahead(self) -> Iterator[Place]:
        """Where the calls are that have been given to a replica and wait for its slot."""
        for state in self._machine.fleet:
            for call_id, number in islice(reversed(state.running), len(state.running) - state.begun):
                seen, call = self._places.get(call_id), self._machine.runs.calls.get(call_id)
                if (
                    seen is not None
                    and call is not None
                    and call.attempt is not None
                    and call.attempt.attempt == number
                ):
                    yield seen.place

    def _count_all(self) -> None:
        for call_id in self._machine.runs.calls:
            self._look(call_id)

    def _forget_all(self) -> None:
        self._counts, self._places, self._of_plan = Counter(), {}, {}

    def _look(self, call_id: str) -> None:
        call = self._machine.runs.calls.get(call_id)
        state = call.report.state if call is not None else ""
        known = self._places.get(call_id)
        if call is None or state not in ("held", "queued", "running"):
            if known is not None:
                self._leave(call_id, known)
            return
        current: Literal["waiting", "running"] = "running" if state == "running" else "waiting"
        if known is not None:
            if known.place[2] == current:
                return
            self._leave(call_id, known)
        run = call.run.plan
        place = (run.workflow, node_pattern(call.node.name), current)
        self._places[call_id] = seen = _Seen(place, run.run_id, call.plan_id)
        self._counts[place] += 1
        for plan_id in {seen.run_id, seen.plan_id}:
            self._of_plan.setdefault(plan_id, set()).add(call_id)

    def _leave(self, call_id: str, seen: _Seen) -> None:
        del self._places[call_id]
        self._counts[seen.place] -= 1
        if not self._counts[seen.place]:
            del self._counts[seen.place]
        for plan_id in {seen.run_id, seen.plan_id}:
            self._of_plan[plan_id].discard(call_id)
            if not self._of_plan[plan_id]:
                del self._of_plan[plan_id]
