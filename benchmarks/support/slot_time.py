"""What the slots of a cluster do: serve interactive runs, serve a batch job, or stand empty, and why they do.

An observer of the machine, so a simulation and a real cluster are seen alike; of a real one the event log is read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path

from dask_fmware.model.replica import Replica
from dask_fmware.runtime import Action, Assign, AttemptEnded, CallRunnable, Event, ReplicaGone, ReplicaReady
from dask_fmware.runtime import RunEnded as Ended
from dask_fmware.runtime import RunSubmitted as Submitted
from dask_fmware.runtime.eventlog import Decision
from dask_fmware.runtime.events import CallDropped, CallWithdrawn, RunDropped
from dask_fmware.simulation.replay import open_log

__all__ = ["SlotTime", "read_slot_times"]

KINDS = ("interactive", "job", "held", "none")


class SlotTime:
    """Sums up slot seconds between two times on the machine's clock; calls of the job are those without an objective.

    Parameters
    ----------
    begin, end
        What is summed up; all that came before must be seen as well.
    replicas
        Those that were ready before anything was seen.

    Attributes
    ----------
    seconds
        Slot seconds of each model: ``interactive`` and ``job`` from a decision until the worker has said that the slot
        is free, ``held`` empty while calls of the job waited for the router, ``none`` empty without such a call.
    in_engine_s
        Of the first two, what workers say was spent in engines; 0 where they time nothing.
    """

    def __init__(self, begin: float, end: float = inf, replicas: Iterable[Replica] = ()) -> None:
        self._begin, self._end, self._at = begin, end, begin
        self._replicas = {replica.replica_id: replica for replica in replicas}
        self._calls: dict[str, tuple[str, bool]] = {}  # call -> its model, and whether it is of the job
        self._of_run: dict[str, list[str]] = {}
        self._waiting: dict[str, set[str]] = defaultdict(set)  # model -> calls of the job
        self._running: dict[tuple[str, int], tuple[str, bool]] = {}  # attempt -> replica, and whether of the job
        self._taken: Counter[tuple[str, bool]] = Counter()  # of the running
        self.seconds: dict[str, Counter[str]] = defaultdict(Counter)
        self.in_engine_s = 0.0

    def observe(self, event: Event, actions: Sequence[Action | Decision], now: float) -> None:
        """Take note of an event and of what was decided."""
        self._pass(now)
        match event:
            case ReplicaReady(replica):
                self._replicas[replica.replica_id] = replica
            case ReplicaGone(replica_id):
                self._replicas.pop(replica_id, None)
                for key in [key for key, (on, _) in self._running.items() if on == replica_id]:
                    self._left(key)
            case Submitted(plan):
                self._calls.update({node.key: (node.model or "", plan.objective is None) for node in plan.nodes})
                self._of_run[plan.run_id] = [node.key for node in plan.nodes]
            case CallRunnable(call_id) if self._calls.get(call_id, ("", False))[1]:
                self._waiting[self._calls[call_id][0]].add(call_id)
            case CallWithdrawn(call_id) | CallDropped(call_id):
                self._waits_no_more(call_id)
            case Ended(run_id) | RunDropped(run_id):
                for call_id in self._of_run.pop(run_id, ()):
                    self._waits_no_more(call_id)
            case AttemptEnded(call_id, attempt):
                found = self._left((call_id, attempt))
                if found and event.latency_s is not None and self._begin <= now < self._end:
                    self.in_engine_s += event.latency_s
        for action in actions:
            if isinstance(action, Assign):
                self._assigned(action.call_id, action.attempt, action.replica_id)
            elif isinstance(action, Decision) and action.kind == "Assign":
                self._assigned(action.of, action.attempt, action.replica_id)

    def close(self) -> None:
        """Nothing more is seen: count up to the end."""
        self._pass(self._end)

    @property
    def shares(self) -> dict[str, float]:
        """What share of all slot seconds went where, and `way`: of those taken, which were outside the engines."""
        found = {kind: float(sum(spent[kind] for spent in self.seconds.values())) for kind in KINDS}
        total = max(sum(found.values()), 1e-9)
        taken = found["interactive"] + found["job"]
        way = max(taken - self.in_engine_s, 0.0) if self.in_engine_s else 0.0
        return {**{kind: spent / total for kind, spent in found.items()}, "way": way / total}

    @property
    def shares_by_model(self) -> dict[str, dict[str, float]]:
        """The same for each model, without the way."""
        return {
            model: {kind: spent[kind] / max(sum(spent.values()), 1e-9) for kind in KINDS}
            for model, spent in sorted(self.seconds.items())
        }

    # -- changes ---------------------------------------------------------------------------------

    def _waits_no_more(self, call_id: str) -> None:
        self._waiting[self._calls.get(call_id, ("", False))[0]].discard(call_id)

    def _assigned(self, call_id: str, attempt: int, replica_id: str) -> None:
        self._waits_no_more(call_id)
        place = replica_id, self._calls.get(call_id, ("", False))[1]
        self._running[call_id, attempt] = place
        self._taken[place] += 1

    def _left(self, key: tuple[str, int]) -> bool:
        place = self._running.pop(key, None)
        if place is not None:
            self._taken[place] -= 1
        return place is not None

    def _pass(self, now: float) -> None:
        spent_s = min(now, self._end) - max(self._at, self._begin)
        self._at = max(self._at, now)
        if spent_s <= 0.0:
            return
        taken = self._taken
        empty: Counter[str] = Counter()
        for replica_id, replica in self._replicas.items():
            interactive = min(taken[replica_id, False], replica.slots)
            job = min(taken[replica_id, True], replica.slots - interactive)  # one that is ahead of its slot has none
            self.seconds[replica.model]["interactive"] += interactive * spent_s  # type: ignore[assignment]
            self.seconds[replica.model]["job"] += job * spent_s  # type: ignore[assignment]
            empty[replica.model] += replica.slots - interactive - job
        for model, slots in empty.items():
            held = min(slots, len(self._waiting[model]))
            self.seconds[model]["held"] += held * spent_s  # type: ignore[assignment]
            self.seconds[model]["none"] += (slots - held) * spent_s  # type: ignore[assignment]


def read_slot_times(log: Path, windows: Sequence[tuple[float, float]]) -> list[SlotTime]:
    """Read what the slots of a recorded cluster did in some windows."""
    found = [SlotTime(begin, end) for begin, end in windows]
    with open_log(log) as (_, lines):
        for line in lines:
            for slot_time in found:
                slot_time.observe(line.event, line.decisions, line.now)
    for slot_time in found:
        slot_time.close()
    return found
