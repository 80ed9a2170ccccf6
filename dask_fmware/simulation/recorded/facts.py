"""What the events of a log say, kept by call, run and replica; nothing is made of it yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.runtime import (
    AttemptEnded,
    Branched,
    CallRunnable,
    FirstToken,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunSubmitted,
)
from dask_fmware.runtime.eventlog import Line
from dask_fmware.simulation.recorded.names import Names
from dask_fmware.simulation.recorded.presence import Presence

__all__ = ["Assigned", "CallFacts", "Facts"]


class Assigned(NamedTuple):
    """One decision: a call was given to a replica."""

    at: float  # seconds since the first event
    call_id: str
    replica: str  # name


@dataclass(slots=True)
class CallFacts:
    """What is known of one call; times are seconds since the first event, infinity for what was not seen."""

    runnable_at: float = inf
    started_at: float = inf
    first_at: float = inf
    ended_at: float = inf
    tokens: tuple[int, int] = (1, 1)  # of prompt and output
    accelerator: str = ""  # of the replica that it was given last


@dataclass(slots=True)
class Facts:
    """What is known of all; times are seconds since the first event."""

    begin: float | None = None  # of the log, on the machine's clock; left out: the first event
    names: Names = field(default_factory=Names)  # of runs and calls; those in the log may be of several runs
    presence: Presence = field(default_factory=Presence)  # of replicas
    by_id: dict[str, Replica] = field(default_factory=dict)
    submitted: dict[str, float] = field(default_factory=dict)  # plan -> when
    roots: list[RunPlan] = field(default_factory=list)  # plans of runs
    parts: dict[str, list[RunPlan]] = field(default_factory=dict)  # run -> plans of its bodies, in order
    branches: dict[tuple[str, str], int | None] = field(default_factory=dict)  # (plan, switch) -> branch taken
    calls: dict[str, CallFacts] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)  # run -> when
    assigned: list[Assigned] = field(default_factory=list)

    def read(self, lines: Iterable[Line]) -> None:
        """Take in the lines of a log, in order."""
        for line in lines:
            if self.begin is None:
                self.begin = line.now
            now = line.now - self.begin
            self._happened(line.event, now)
            for made in line.decisions:
                if made.kind == "Assign":
                    self._given(self.names.of(made.of), made.replica_id, now)

    def _happened(self, event: object, now: float) -> None:
        match event:
            case ReplicaReady(replica):
                self.by_id[replica.replica_id] = replica
                self.presence.came(replica, now)
            case ReplicaDraining(replica_id):
                self.presence.drained(replica_id, now)
            case ReplicaGone(replica_id):
                self.presence.went(replica_id, now)
            case RunSubmitted(plan):
                self._submitted(self.names.submitted(plan), now)
            case CallRunnable(call_id):
                facts = self.calls.setdefault(self.names.of(call_id), CallFacts())
                facts.runnable_at = min(facts.runnable_at, now)
            case Branched(run_id, switch, branch):
                self.branches[self.names.of(run_id), switch] = branch
            case FirstToken(call_id):
                if (known := self.calls.get(self.names.of(call_id))) is not None:
                    known.first_at = now
            case AttemptEnded(call_id) if event.outcome == "finished":
                if (known := self.calls.get(self.names.of(call_id))) is not None:
                    known.ended_at = now
                    known.tokens = max(event.prompt_tokens, 1), max(event.output_tokens, 1)
            case RunEnded(run_id, "finished"):
                self.finished[self.names.of(run_id)] = now
            case RunDropped(run_id):
                self.names.dropped(run_id)

    def _submitted(self, plan: RunPlan, now: float) -> None:
        if plan.run_id in self.submitted:
            return
        self.submitted[plan.run_id] = now
        if plan.part_of is None:
            self.roots.append(plan)
        else:
            self.parts.setdefault(plan.part_of, []).append(plan)
        for switch, branch in plan.decided:
            self.branches[plan.run_id, switch] = branch

    def _given(self, call_id: str, replica_id: str, now: float) -> None:
        replica = self.by_id.get(replica_id)
        self.assigned.append(Assigned(now, call_id, replica_id if replica is None else replica.name))
        facts = self.calls.setdefault(call_id, CallFacts())
        facts.started_at, facts.accelerator = now, "" if replica is None else replica.accelerator

    # -- what follows from it --------------------------------------------------------------------

    def is_taken(self, plan: RunPlan, node: PlannedNode) -> bool:
        """Whether a node is on no branch that was not taken, as far as switches have decided."""
        return all(
            self.branches.get((plan.run_id, guard.switch), guard.branch) == guard.branch for guard in node.guards
        )

    def is_call(self, plan: RunPlan, node: PlannedNode) -> bool:
        """Whether a node had a model to call."""
        return node.model is not None and self.is_taken(plan, node)
