"""The observer of a machine that remembers: what happened lately, and totals since it began.

Each event costs it a few microseconds and the memory is bounded: by time, by the number of names and by the
number of replicas. Names beyond the bound are counted together.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dask_fmware.model.messages import AttemptEnded
from dask_fmware.model.plan import Outline, outline
from dask_fmware.model.report import AttemptReport, RunReport
from dask_fmware.observe.blame import Blame, blame, node_pattern
from dask_fmware.observe.census import Census
from dask_fmware.observe.late import Late, Who
from dask_fmware.observe.layout import GraphNode, graph_of
from dask_fmware.observe.totals import OTHERS, Totals
from dask_fmware.observe.window import ALL, Bucket, Culprit, Ended, NodeTally, Window
from dask_fmware.runtime.actions import Action, Assign, Hold
from dask_fmware.runtime.events import Event, ReplicaGone, ReplicaReady, RunDropped, RunEnded, RunRetried, RunSubmitted
from dask_fmware.runtime.machine import Machine
from dask_fmware.runtime.runs.records import CallRecord

__all__ = ["OTHERS", "History", "Prediction", "ReplicaHistory"]

NAMES = 100  # workflows, and tenants, told apart
POINTS = 400  # predictions remembered


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was expected of an attempt that finished, and what came."""

    at: float  # seconds since the epoch
    model: str
    accelerator: str
    predicted_s: float
    measured_s: float


@dataclass(slots=True)
class ReplicaHistory:
    """What a replica has done since it was first seen; a restarted worker goes on with that of its name."""

    name: str
    model: str
    accelerator: str
    card: str
    since: float
    finished: int = 0
    failed: int = 0
    lost: int = 0  # attempts that were under way when it went
    output_tokens: int = 0
    running: int = 0  # attempts that it was given, those ahead of their slots included
    slots: int = 1
    _busy_s: float = 0.0
    _counted_at: float = 0.0

    def busy_s(self, now: float) -> float:
        """Seconds that its slots were taken, added up over the slots."""
        return self._busy_s + min(self.running, self.slots) * max(now - self._counted_at, 0.0)

    def change(self, by: int, now: float) -> None:
        """Take note that attempts started (or ended, below zero)."""
        self._busy_s, self._counted_at = self.busy_s(now), now
        self.running += by


class History:
    """Watches a machine; append it to its ``observers``.

    Parameters
    ----------
    machine
        To watch, from before it has runs.
    step_s, keep
        Length and number of the buckets of the rolling window.
    """

    def __init__(self, machine: Machine, *, step_s: float = 5.0, keep: int = 180) -> None:
        self.machine = machine
        self.window = Window(step_s, keep)
        self.totals = Totals()
        self.census = Census(machine)
        self.predictions: deque[Prediction] = deque(maxlen=POINTS)
        self.replicas: dict[str, ReplicaHistory] = {}  # by name
        self.graphs: dict[str, tuple[GraphNode, ...]] = {}  # workflow -> its nodes, as last submitted
        self.fleet_version = 0  # grows when replicas come and go
        self.graphs_version = 0
        self._planned: dict[str, Outline] = {}  # workflow -> of that plan
        self._live: set[str] = set()
        self._late = Late()
        self._takes: dict[type[Event], Callable[[Any, float], None]] = {
            RunSubmitted: self._submitted,
            AttemptEnded: self._attempt_ended,
            RunEnded: self._run_ended,
            RunRetried: self._run_retried,
            RunDropped: self._run_ended,
            ReplicaReady: self._replica_ready,
            ReplicaGone: self._replica_gone,
        }
        self._under_way: dict[tuple[str, int], tuple[str, ReplicaHistory]] = {}  # attempt -> replica id, history
        self._names: dict[str, set[str]] = {"workflow": set(), "tenant": set()}

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Take note of an event that the machine has handled."""
        self.census.observe(event, actions)
        take = self._takes.get(type(event))
        if take is not None:
            take(event, now)
        for action in actions:
            if isinstance(action, Assign):
                self._assigned(action, now)
            elif isinstance(action, Hold):
                self._waits(self.window.at(now))

    def _waits(self, bucket: Bucket) -> None:
        bucket.held = max(bucket.held, self.machine.held)

    def name(self, kind: str, name: str) -> str:
        """A workflow or tenant as it is counted: itself, or one of the others."""
        known = self._names[kind]
        if name not in known:
            if len(known) >= NAMES:
                return OTHERS
            known.add(name)
        return name

    # -- runs ------------------------------------------------------------------------------------

    def _submitted(self, event: RunSubmitted, now: float) -> None:
        plan = event.plan
        if plan.part_of is not None or plan.run_id in self._live:
            return
        report = self.machine.report(plan.run_id)
        if report is None:
            return
        who = workflow, _ = self._who(report)
        self.window.at(now).submitted += 1
        self._began(report, who)
        self.totals.submitted[who] += 1
        if workflow != OTHERS:
            planned = outline(plan.nodes)
            if self._planned.get(workflow) != planned:
                self._planned[workflow] = planned
                self.graphs[workflow] = graph_of(plan.nodes)
                self.graphs_version += 1
        if report.state == "refused":
            self._over(plan.run_id, now)

    def _run_ended(self, event: RunEnded | RunDropped, now: float) -> None:
        self._over(event.run_id, now)

    def _run_retried(self, event: RunRetried, now: float) -> None:
        """It is under way again and ends once more; it did not arrive again."""
        run_id, report = event.run_id, self.machine.report(event.run_id)
        if report is None or report.run_id != run_id or report.state != "running" or run_id in self._live:
            return
        who = self._who(report)
        self._began(report, who)
        self.totals.retried[who] += 1

    def _who(self, report: RunReport) -> Who:
        return self.name("workflow", report.workflow), self.name("tenant", report.tenant)

    def _began(self, report: RunReport, who: Who) -> None:
        self._live.add(report.run_id)
        self._late.began(report, who)
        if report.deadline_s is not None:
            self.totals.promised(*who)

    def _over(self, run_id: str, now: float) -> None:
        if run_id not in self._live:
            return
        self._live.discard(run_id)
        self._late.ended(run_id)
        report = self.machine.report(run_id)
        if report is None:
            return
        bucket, ended = self.window.at(now), Ended.of(report)
        workflow, tenant = self._who(report)
        for group in (ALL, ("workflow", workflow), ("tenant", tenant)):
            bucket.tally(group).add(ended)
        self.totals.ended(workflow, tenant, report.state, ended)
        if ended.met is False:
            whom = blame(report) or Blame("between", "", "", "", "", 0.0)
            culprit = Culprit(workflow, whom.node, whom.cause, whom.accelerator, whom.card)
            bucket.miss(culprit, whom.loss_s)
            self.totals.missed(culprit)

    @property
    def live_runs(self) -> int:
        """Runs under way, without the bodies of maps and loops."""
        return len(self._live)

    def late(self, now: float) -> Counter[Who]:
        """Runs under way that are late already, by workflow and tenant."""
        return self._late.counts(now)

    # -- attempts --------------------------------------------------------------------------------

    def _assigned(self, action: Assign, now: float) -> None:
        attempt, replica = (action.call_id, action.attempt), self._replica(action.replica_id, now)
        self._lost(attempt, now)  # the same of a run of the same id, which was dropped
        if replica is not None:
            self._under_way[attempt] = action.replica_id, replica
            replica.change(+1, now)

    def _lost(self, attempt: tuple[str, int], now: float) -> None:
        """Close an attempt whose end nobody will tell, if it is under way."""
        _, replica = self._under_way.pop(attempt, (None, None))
        if replica is not None:
            replica.change(-1, now)
            replica.lost += 1

    def _attempt_ended(self, event: AttemptEnded, now: float) -> None:
        call = self.machine.runs.calls.get(event.call_id)
        attempt = _attempt(call, event.attempt)
        _, replica = self._under_way.pop((event.call_id, event.attempt), (None, None))
        if replica is not None:
            replica.change(-1, now)
            replica.output_tokens += event.output_tokens
            replica.finished += event.outcome == "finished"
            replica.failed += event.outcome in ("failed", "retry")
        if call is None or attempt is None or replica is None:
            return  # said before, or of a run that was dropped
        if event.outcome != "finished" or attempt.outcome != "finished" or attempt.ended_at is None:
            return
        bucket = self.window.at(now)
        bucket.calls += 1
        self._waits(bucket)
        bucket.output_tokens += event.output_tokens
        node = self._node(bucket, call)
        node.calls += 1
        measured_s = attempt.ended_at - attempt.started_at
        node.ran_s += measured_s
        node.waited_s += max(attempt.started_at - (call.report.runnable_at or 0.0), 0.0)
        view = call.view  # as it was when the attempt began
        if view is not None and view.due is not None:
            node.slack_s += view.due - view.own_s - (call.run.report.submitted + attempt.started_at)
            node.with_slack += 1
        model = call.node.model or ""
        self.totals.attempt(model, attempt.accelerator, attempt, event)
        if attempt.predicted_s is not None:
            self.predictions.append(Prediction(now, model, attempt.accelerator, attempt.predicted_s, measured_s))

    def _node(self, bucket: Bucket, call: CallRecord) -> NodeTally:
        key = self.name("workflow", call.run.plan.workflow), node_pattern(call.node.name)
        node = bucket.nodes.get(key)
        if node is None:
            node = bucket.nodes[key] = NodeTally()
        return node

    # -- replicas --------------------------------------------------------------------------------

    def _replica_ready(self, event: ReplicaReady, now: float) -> None:
        self.fleet_version += 1
        self._gone(event.replica.replica_id, now)  # an engine that started again has lost what it had
        self._replica(event.replica.replica_id, now)

    def _replica_gone(self, event: ReplicaGone, now: float) -> None:
        self.fleet_version += 1
        self._gone(event.replica_id, now)

    def _replica(self, replica_id: str, now: float) -> ReplicaHistory | None:
        state = self.machine.fleet.get(replica_id)
        if state is None:
            return None
        made = state.replica
        known = self.replicas.get(made.name)
        if known is None:
            known = ReplicaHistory(made.name, made.model, made.accelerator, made.card, now)
            self.replicas[made.name] = known
        known.slots = made.slots
        return known

    def _gone(self, replica_id: str, now: float) -> None:
        """Close the attempts that a replica no longer has, and forget those of names that are long gone."""
        state = self.machine.fleet.get(replica_id)
        held = state.running if state is not None else {}
        lost = [key for key, (where, _) in self._under_way.items() if where == replica_id and key not in held]
        for attempt in lost:
            self._lost(attempt, now)
        alive = {state.replica.name for state in self.machine.fleet}
        gone = [name for name in self.replicas if name not in alive]
        for name in gone[: max(0, len(gone) - NAMES)]:
            del self.replicas[name]


def _attempt(call: CallRecord | None, number: int) -> AttemptReport | None:
    if call is None:
        return None
    return next((a for a in reversed(call.report.attempts) if a.attempt == number), None)
