"""The runs and calls that the machine answers for: states, records, history.

It owns who is in which state. Which replica a call gets is not its business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from dask_fmware.errors import PolicyFaultError
from dask_fmware.model.plan import Outline, PlannedNode, RunPlan, outline
from dask_fmware.model.report import AttemptReport, CallReport, CallState, Failure, PackedReport, RunReport, RunState
from dask_fmware.policy.protocol import CallView
from dask_fmware.runtime.learning.branches import Decided
from dask_fmware.runtime.learning.knowledge import Shape
from dask_fmware.runtime.learning.nodes import base_name
from dask_fmware.runtime.runs.open_calls import OpenCalls
from dask_fmware.runtime.runs.shares import Level

__all__ = ["TERMINAL", "CallRecord", "RunRecord", "Runs", "sources"]

TERMINAL: frozenset[CallState] = frozenset({"finished", "failed", "rejected", "cancelled", "skipped"})
Key = TypeVar("Key")
Value = TypeVar("Value")
UNDECIDED: Decided = frozenset()
NOTHING: Mapping[Any, Any] = MappingProxyType({})


def _nothing() -> Mapping[Any, Any]:
    return NOTHING


def _own(shared: Mapping[Key, Value]) -> dict[Key, Value]:
    """Return a mapping of a run to write into: it has one of its own from the first time on."""
    return shared if isinstance(shared, dict) else {}


@dataclass(slots=True)
class CallRecord:
    """One call and where it stands."""

    call_id: str  # Dask key of the call
    node: PlannedNode
    run: RunRecord
    plan_id: str  # run_id of the plan that brought it: the run's own, or one of its bodies'
    report: CallReport
    arrival: int = 0  # order in which calls became runnable
    queued_on: str | None = None  # replica whose queue holds it
    tries: int = 0  # attempts since it last finished
    unharmed: int = 0  # of these, ended by an answer or a bound, which no engine has suffered from
    spared: bool = False  # an attempt that was lost before it began was not counted as a try
    avoid: frozenset[str] = frozenset()  # replicas on which it failed
    parked: bool = False  # found too late by the policy
    view: CallView | None = None  # as policies saw it last
    place: int = 0  # among the calls of its run
    among: OpenCalls | None = None  # the open calls of its map or loop
    fault: PolicyFaultError | None = None  # of the policy, which has no place for it among those that wait

    @property
    def attempt(self) -> AttemptReport | None:
        """The attempt that runs, if one does."""
        attempts = self.report.attempts
        return attempts[-1] if attempts and attempts[-1].outcome == "running" else None

    def forget_tries(self) -> None:
        """It may be tried as often as at first."""
        self.tries = self.unharmed = 0

    def becomes(self, state: CallState, reason: str | None = None) -> None:
        """It stands elsewhere from now on; why, if that is another reason than before."""
        self.report.state = state
        if reason is not None:
            self.report.reason = reason
        if self.among is not None:
            self.among.put(self.call_id, self.place, state)


@dataclass(slots=True)
class RunRecord:
    """One run, with the plans that its maps and loops added.

    What most runs have none of is shared, since a hundred thousand may wait.
    """

    plan: RunPlan
    report: RunReport
    branches: Mapping[str, Mapping[str, int | None]] = field(default_factory=_nothing)  # plan -> switch -> branch taken
    parts: Mapping[str, None] = field(default_factory=_nothing)  # run ids of its bodies
    shape: Shape | None = None  # of its workflow
    deadline: float | None = None  # absolute
    to_end: bool = False  # it is due with its end, and not with its first token
    begun: bool = False  # whether any of its calls has started
    excess: float = 0.0  # card seconds by which its tenant was ahead of its share when it was submitted
    idle_since: float = 0.0  # when the last of its calls ended
    homes: Mapping[str, str] = field(default_factory=_nothing)  # model -> replica that served it last
    bodies: Mapping[str, int] = field(default_factory=_nothing)  # path of a map or loop -> bodies
    rounds: Mapping[str, int] = field(default_factory=_nothing)  # the same -> rounds of them, one after the other
    latest: Mapping[str, list[CallReport]] = field(default_factory=_nothing)  # the same -> its calls that may run
    open_calls: Mapping[str, OpenCalls] = field(default_factory=_nothing)  # map or loop -> those that are not over
    retried_at: int = 0  # calls that it had when it was retried last
    decided: Decided = UNDECIDED  # branches that its own switches have taken

    @property
    def level(self) -> Level:
        """Runs of equal urgency, among which tenants have shares."""
        return self.plan.priority, self.deadline is not None

    @property
    def may_be_rejected(self) -> bool:
        """Whether an error is wanted rather than a late result; once it has finished, a lost result is made again."""
        objective = self.plan.objective
        return objective is not None and objective.on_miss == "reject" and self.report.state == "running"

    def end(self, state: RunState, reason: str, now: float) -> None:
        """Write into its report how it ended; its first token is the last first one of its answers."""
        report = self.report
        report.state, report.reason, report.finished_at = state, reason, now - report.submitted
        firsts = [
            call.last.first_token_at
            for call in report.calls
            if call.answers and call.state != "skipped" and call.last and call.last.first_token_at is not None
        ]
        report.first_token_at = max(firsts, default=report.finished_at if state == "finished" else None)

    def reopen(self, now: float) -> None:
        """It is tried again: its objective counts from its submission, its pauses and bodies from here."""
        report, at = self.report, now - self.report.submitted
        failed_at = at if report.finished_at is None else report.finished_at
        report.failures = (*report.failures, Failure(report.reason, failed_at, at))
        report.state, report.reason, report.finished_at, report.first_token_at = "running", "", None, None
        self.idle_since, self.rounds, self.bodies, self.latest = now, NOTHING, NOTHING, NOTHING
        self.retried_at = len(report.calls)

    def rejects_at(self, node: str) -> bool:
        """Whether the error of a node is that a call was rejected: the node itself, or one of its bodies."""
        rejected = [c.node for c in self.report.calls if c.state == "rejected" and not c.before_retry]
        return node in rejected or node in [name.partition("[")[0] for name in rejected]

    def take(self, plan_id: str, switch: str, branch: int | None) -> None:
        """A switch of one of its plans has decided."""
        self.branches = branches = _own(self.branches)
        branches[plan_id] = {**branches.get(plan_id, NOTHING), switch: branch}
        if plan_id == self.plan.run_id:
            others = [known for known in self.decided if known[0] != switch]
            self.decided = frozenset([*others, (switch, branch)])

    def add_part(self, run_id: str) -> None:
        """A plan belongs to it."""
        self.parts = parts = _own(self.parts)
        parts[run_id] = None

    def drop_part(self, run_id: str) -> None:
        """A plan belongs to it no more."""
        for known in (self.parts, self.branches):
            if isinstance(known, dict):
                known.pop(run_id, None)

    def add_body(self, within: Sequence[str], calls: Sequence[CallReport]) -> None:
        """A map or loop has one more body with these calls, which begins a round if all calls before it are over.

        `within` are the paths of all whose bodies it is in, the outermost first. Those have its calls too, by which a
        body that holds nothing but maps and loops is told from one beside others.
        """
        outermost, owner = within[0], within[-1]
        if self.retried_at and outermost not in self.bodies:
            self._runs_again(outermost)
        self.bodies = bodies = _own(self.bodies)
        self.rounds = rounds = _own(self.rounds)
        self.latest = latest = _own(self.latest)
        bodies[owner] = bodies.get(owner, 0) + 1
        before = latest.setdefault(owner, [])
        had_calls = bool(before)
        while before and before[-1].state in TERMINAL:  # each is looked at once, however many rounds there are
            before.pop()
        if owner not in rounds or (had_calls and not before):
            rounds[owner] = rounds.get(owner, 0) + 1
        for path in within:
            latest.setdefault(path, []).extend(calls)

    def open_calls_of(self, base: str) -> OpenCalls:
        """Return the open calls of a map or loop, to write into."""
        self.open_calls = open_calls = _own(self.open_calls)
        return open_calls.setdefault(base, OpenCalls())

    def _runs_again(self, outer: str) -> None:
        """A map or loop makes its bodies anew: those of before the retry have no part in what comes of the run."""
        for call in self.report.calls[: self.retried_at]:
            if call.node.startswith(f"{outer}["):
                call.before_retry = True

    def skips(self, call: CallRecord) -> str | None:
        """Why a call is on a branch that was not taken, or None."""
        for guard in call.node.guards:
            taken = self.branches.get(call.plan_id, NOTHING).get(guard.switch, guard.branch)
            if taken != guard.branch:
                return f"switch '{guard.switch}' took another branch"
        return None


def sources(nodes: Sequence[PlannedNode]) -> dict[str, tuple[str, ...]]:
    """Return what each node takes values from: plain code counts, and so does what it takes values from.

    Whether plain code is a map or loop, whose calls are the source, a plan does not say.
    """
    found: dict[str, tuple[str, ...]] = {}
    plain = {node.name for node in nodes if node.model is None}
    for node in nodes:
        through = dict.fromkeys(node.after)
        for name in node.after:
            if name in plain:
                through.update(dict.fromkeys(found.get(name, ())))
        found[node.name] = tuple(through)
    return found


class _Kept(NamedTuple):
    """The report of a run that nobody holds any more."""

    packed: PackedReport
    dropped_at: float  # seconds since the epoch; nothing of it is later


class Runs:
    """Live runs, their calls, and the reports of those that ended last."""

    def __init__(self, keep_runs: int) -> None:
        self._runs: dict[str, RunRecord] = {}  # bodies of maps and loops point to their run
        self._plans: dict[str, RunPlan] = {}
        self.calls: dict[str, CallRecord] = {}  # live ones by id
        self._history: OrderedDict[str, _Kept] = OrderedDict()
        self._leaving: RunReport | None = None  # of the run that is dropped, where none are kept
        self._sources: dict[Outline, dict[str, tuple[str, ...]]] = {}
        self._keep_runs = keep_runs

    def __len__(self) -> int:
        return len(self._plans)

    def add(self, plan: RunPlan, now: float) -> RunRecord | None:
        """Start the record of a plan; None if it extends a run that is not live, or is known already."""
        if plan.run_id in self._plans:
            return None
        if plan.part_of is None:
            o = plan.objective
            report = RunReport(
                run_id=plan.run_id,
                workflow=plan.workflow,
                tenant=plan.tenant,
                priority=plan.priority,
                submitted=now,
                ttft_slo_s=o.ttft_s if o else None,
                e2e_slo_s=o.e2e_s if o else None,
                finish_by_s=max(0.0, o.finish_by - now) if o and o.finish_by is not None else None,
            )
            bound = report.deadline_s
            deadline, to_end = None if bound is None else now + bound, bound != report.ttft_slo_s
            run = RunRecord(plan, report, deadline=deadline, to_end=to_end, idle_since=now)
        else:
            parent = self._runs.get(plan.part_of)
            if parent is None:
                return None
            run = parent
            run.add_part(plan.run_id)
        self._runs[plan.run_id] = run
        self._plans[plan.run_id] = plan
        for switch, branch in plan.decided:
            run.take(plan.run_id, switch, branch)
        after = self._after(plan)
        for node in plan.nodes:
            if node.model is not None and node.key not in self.calls:
                told = CallReport(node.key, node.name, node.model, node.answers, after=after[node.name])
                call = CallRecord(node.key, node, run, plan.run_id, told, place=len(run.report.calls))
                run.report.calls.append(told)
                self.calls[node.key] = call
                if plan.part_of is not None:
                    call.among = run.open_calls_of(base_name(node.name))
                    call.becomes("planned")
        return run

    def _after(self, plan: RunPlan) -> dict[str, tuple[str, ...]]:
        key = outline(plan.nodes)
        after = self._sources.get(key)
        if after is None:
            if len(self._sources) >= 1000:
                self._sources.clear()
            after = self._sources[key] = sources(plan.nodes)
        return after

    def get(self, run_id: str) -> RunRecord | None:
        """Return the live run that a plan belongs to."""
        return self._runs.get(run_id)

    def plan(self, run_id: str) -> RunPlan | None:
        """Return a plan that is live: that of a run, or of a body of a map or loop."""
        return self._plans.get(run_id)

    def calls_of(self, run_id: str) -> list[CallRecord]:
        """Return the live calls of a plan, and of its bodies if it is that of a run."""
        plan, run = self._plans.get(run_id), self._runs.get(run_id)
        if plan is None or run is None:
            return []
        known, calls = self.calls, []
        for node in plan.nodes:  # a key may belong to the plan that named it first
            if (call := known.get(node.key)) is not None and call.plan_id == run_id:
                calls.append(call)
        if run.parts and plan.part_of is None:
            calls.extend(call for part in run.parts for call in self.calls_of(part))
        return calls

    def drop(self, run_id: str, now: float) -> list[CallRecord]:
        """Forget a plan and return its calls; a run's report goes to the history, its bodies go with it."""
        calls = self.calls_of(run_id)
        plan, run = self._plans.pop(run_id, None), self._runs.pop(run_id, None)
        if plan is None or run is None:
            return []
        for call in calls:
            self.calls.pop(call.call_id, None)
            if call.among is not None:
                call.among.forget(call.call_id)
        if plan.part_of is not None:
            run.drop_part(run_id)
            return calls
        for part in list(run.parts):
            self.drop(part, now)
        if not self._keep_runs:
            self._leaving = run.report
            return calls
        self._history[run_id] = _Kept(run.report.packed(), now)
        self._history.move_to_end(run_id)
        while len(self._history) > self._keep_runs:
            self._history.popitem(last=False)
        return calls

    def forget_dropped(self) -> None:
        """Keep no report where none are kept: all have been told that its run was dropped."""
        self._leaving = None

    def report(self, run_id: str) -> RunReport | None:
        """Return the report of a live or remembered run, or of one that is being dropped."""
        found = self._report_or_packed(run_id)
        return RunReport.unpacked(found) if isinstance(found, PackedReport) else found

    def under_way_since(self, since: float, remembered: int) -> Iterator[RunReport | PackedReport]:
        """Reports of live runs, then of those of the ones dropped last that were live since then, the latest first.

        Of those at this moment; runs may come and go meanwhile.
        """
        last = islice(reversed(self._history.values()), remembered)
        dropped = list(takewhile(lambda kept: kept.dropped_at > since, last))
        for run_id in tuple(self._runs):
            run = self._runs.get(run_id)
            if run is None or run.plan.run_id == run_id:  # and no body of a map or loop
                found = self._report_or_packed(run_id)
                if found is not None:
                    yield found
        yield from (kept.packed for kept in dropped)

    def packed(self, run_ids: Iterable[str]) -> Iterator[PackedReport]:
        """Reports of those of these runs that are live or remembered, packed when they are asked for."""
        return _packed([self._report_or_packed(run_id) for run_id in run_ids])

    def all_packed(self) -> Iterator[PackedReport]:
        """Reports of remembered runs, then of live ones: of those at this moment, live ones as they are when asked for.

        Runs may come and go meanwhile.
        """
        live = [run.report for run_id, run in self._runs.items() if run_id == run.plan.run_id]
        return _packed([*(kept.packed for kept in self._history.values()), *live])

    def _report_or_packed(self, run_id: str) -> RunReport | PackedReport | None:
        if (run := self._runs.get(run_id)) is not None:
            return run.report
        if self._leaving is not None and self._leaving.run_id == run_id:
            return self._leaving
        kept = self._history.get(run_id)
        return None if kept is None else kept.packed

    def reports(self) -> Iterator[RunReport]:
        """Reports of remembered runs, then of live ones."""
        yield from (RunReport.unpacked(kept.packed) for kept in self._history.values())
        yield from (run.report for run_id, run in self._runs.items() if run_id == run.plan.run_id)


def _packed(found: Iterable[RunReport | PackedReport | None]) -> Iterator[PackedReport]:
    return (one.packed() if isinstance(one, RunReport) else one for one in found if one is not None)
