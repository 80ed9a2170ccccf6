"""The checker: books of runs and calls, and what would break a promise to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.model.report import RunReport
from dask_fmware.runtime.actions import Action
from dask_fmware.runtime.contract.breach import ATTEMPTS, ENDS, MISSES, PLACES, Breach
from dask_fmware.runtime.contract.places import Places
from dask_fmware.runtime.eventlog import Decision, Head, Line, decision
from dask_fmware.runtime.events import (
    AttemptEnded,
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Event,
    FirstToken,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
)
from dask_fmware.runtime.replicas.slots import AttemptKey

__all__ = ["Contract", "check_log"]


@dataclass(slots=True)
class _Call:
    node: PlannedNode
    run: _Run
    is_runnable: bool = False  # and not assigned since
    is_over: bool = False  # finished or skipped
    tries: set[int] = field(default_factory=set)  # attempts since it last finished
    latest: int = 0  # attempt
    spared: bool = False  # a try that was lost before it began was not counted
    tokens_of: int = 0  # the latest attempt that gave any


@dataclass(slots=True)
class _Run:
    plan: RunPlan
    submitted: float
    state: str = "live"
    plans: dict[str, list[str]] = field(default_factory=dict)  # its own and those of its bodies, with their calls


class Contract:
    """An observer that notes every breach.

    Parameters
    ----------
    max_attempts
        Tries that one call may have.
    is_complete
        Whether the machine is watched from its beginning: only then must every call be known.
    report
        Looks up the report of a run, so that it can be held against what happened; None where there are none.
    wake_at
        When the machine wants to look again, or None if it waits for events only: then no call may wait for
        replicas that are idle. Left out where nobody can be asked.
    """

    def __init__(
        self,
        max_attempts: int,
        *,
        is_complete: bool = True,
        report: Callable[[str], RunReport | None] | None = None,
        wake_at: Callable[[], float | None] | None = None,
    ) -> None:
        self.breaches: list[Breach] = []
        self.counts: Counter[str] = Counter()  # runs by end, attempts by outcome, events
        self._max_attempts = max_attempts
        self._is_complete = is_complete
        self._report = report
        self._wake_at = wake_at
        self._runs: dict[str, _Run] = {}  # live runs by the id of any of their plans
        self._calls: dict[str, _Call] = {}
        self._waiting: dict[str, _Call] = {}  # those that are runnable
        self._places = Places(lambda what: self._broken(PLACES, what))
        self._now = 0.0

    @property
    def live_runs(self) -> int:
        """Runs that were accepted and have not ended."""
        return sum(run.state == "live" and run.plan.run_id == run_id for run_id, run in self._runs.items())

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Take in what a machine did."""
        self.take(event, map(decision, actions), now)

    def take(self, event: Event, decisions: Iterable[Decision], now: float) -> None:
        """Take in an event and what was decided on it."""
        self._now = now
        self.counts["events"] += 1
        match event:
            case RunSubmitted():
                self._submitted(event.plan)
            case CallRunnable():
                if (call := self._calls.get(event.call_id)) is not None:
                    self._is_runnable(event.call_id, call, True)
                    if call.is_over:
                        call.is_over = False
                        call.tries.clear()
            case CallWithdrawn() | CallDropped():
                if (call := self._calls.get(event.call_id)) is not None:
                    self._is_runnable(event.call_id, call, False)
            case CallRetried():
                if (call := self._calls.get(event.call_id)) is not None:
                    call.tries.clear()
                    call.spared = False
            case AttemptEnded():
                self._attempt_ended(event)
            case FirstToken():
                if (call := self._calls.get(event.call_id)) is not None:
                    call.tokens_of = max(call.tokens_of, event.attempt)
            case RunEnded():
                self._run_ended(event)
            case RunRetried():
                self._run_retried(event.run_id)
            case RunDropped():
                self._run_dropped(event.run_id)
            case ReplicaReady():
                self._lost(self._places.ready(event.replica, event.draining))
            case ReplicaGone():
                self._lost(self._places.gone(event.replica_id))
            case ReplicaDraining():
                self._places.drain(event.replica_id, event.draining)
        for made in decisions:
            self._decided(made)
        if self._wake_at is not None and self._waiting and self._wake_at() is None:
            self._check_waiting()

    def finish(self) -> list[Breach]:
        """Nothing more will happen: what is still under way was lost. Return all breaches."""
        for run_id, run in self._runs.items():
            if run.state == "live" and run_id == run.plan.run_id:
                self._broken(ENDS, f"run '{run_id}' of workflow '{run.plan.workflow}' was accepted and never ended")
        for replica_id, (call_id, attempt) in self._places:
            self._broken(PLACES, f"attempt {attempt} of call '{call_id}' still holds a slot of '{replica_id}'")
        return self.breaches

    def _broken(self, point: int, what: str) -> None:
        self.breaches.append(Breach(point, self._now, what))

    def _is_runnable(self, call_id: str, call: _Call, is_runnable: bool) -> None:
        call.is_runnable = is_runnable
        if is_runnable:
            self._waiting[call_id] = call
        else:
            self._waiting.pop(call_id, None)

    def _check_waiting(self) -> None:
        """Only events are waited for: then one must come from a card of the model that runs something."""
        idle = self._places.idle()
        for call_id, call in self._waiting.items():
            replica_id = idle.get(call.node.model or "")
            if replica_id is not None and call.run.state == "live":
                self._broken(ENDS, f"call '{call_id}' waits for nothing although '{replica_id}' is idle")

    # -- runs ------------------------------------------------------------------------------------

    def _submitted(self, plan: RunPlan) -> None:
        if plan.run_id in self._runs:
            return
        if plan.part_of is None:
            run = _Run(plan, self._now)
            self.counts["runs"] += 1
        elif (known := self._runs.get(plan.part_of)) is not None:
            run = known
        else:
            return
        self._runs[plan.run_id] = run
        fresh = [node for node in plan.nodes if node.model is not None and node.key not in self._calls]
        run.plans[plan.run_id] = [node.key for node in fresh]
        self._calls.update({node.key: _Call(node, run) for node in fresh})

    def _run_ended(self, event: RunEnded) -> None:
        run = self._runs.get(event.run_id)
        if run is None or run.state != "live" or run.plan.run_id != event.run_id:
            return
        run.state = event.state
        self.counts[f"runs {event.state}"] += 1
        if event.state == "finished" and self._is_complete:
            for call in (self._calls[key] for key in run.plans[event.run_id]):
                if not call.is_over:
                    what = f"run '{event.run_id}' finished, yet no attempt of node '{call.node.name}' did"
                    self._broken(MISSES, what)
        self._reported(run)

    def _run_retried(self, run_id: str) -> None:
        """A run that failed or was refused is to end once more; its time still counts from its submission."""
        run = self._runs.get(run_id)
        if run is not None and run.state in ("failed", "rejected", "refused") and run.plan.run_id == run_id:
            run.state = "live"
            self.counts["runs retried"] += 1

    def _reported(self, run: _Run) -> None:
        """A run whose completion came after its bound has missed it, whatever its report says."""
        bound = run.plan.objective.e2e_s if run.plan.objective is not None else None
        spent = self._now - run.submitted
        if bound is None or run.state != "finished":
            return
        late = spent > bound
        self.counts["runs late"] += late
        report = self._report(run.plan.run_id) if self._report is not None else None
        if late and report is not None and report.met:
            self._broken(
                MISSES, f"run '{run.plan.run_id}' took {spent:.3f} s of {bound:g} s and is reported as in time"
            )

    def _run_dropped(self, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        is_root = run.plan.run_id == run_id
        if is_root and run.state == "live":
            run.state = "cancelled"
            self.counts["runs cancelled"] += 1
        for plan_id in list(run.plans) if is_root else [run_id]:
            del self._runs[plan_id]
            for key in run.plans.pop(plan_id):
                del self._calls[key]
                self._waiting.pop(key, None)

    # -- attempts --------------------------------------------------------------------------------

    def _attempt_ended(self, event: AttemptEnded) -> None:
        call = self._calls.get(event.call_id)
        if call is not None and (event.outcome == "undelivered" or event.shut_s):
            call.tries.discard(event.attempt)  # its replica never heard of it, or its server had no room for it
        if not self._places.free((event.call_id, event.attempt)):
            return
        self.counts[f"attempts {event.outcome}"] += 1
        if call is None or event.attempt != call.latest:
            return
        if event.outcome in ("finished", "skipped"):
            if call.is_over:
                self._broken(ATTEMPTS, f"call '{event.call_id}' finished twice without having been asked for again")
            call.is_over = True

    def _decided(self, made: Decision) -> None:
        match made.kind:
            case "Assign":
                self._assigned(made)
            case "Move":
                self._moved(made)
            case "Skip":
                if (call := self._calls.get(made.of)) is not None:
                    call.is_over = True
                    self._is_runnable(made.of, call, False)
            case "Fail":
                if (call := self._calls.get(made.of)) is not None:
                    self._is_runnable(made.of, call, False)
            case "Refuse":
                if (run := self._runs.get(made.of)) is not None and run.plan.run_id == made.of:
                    run.state = "refused"
                    self.counts["runs refused"] += 1
            case _:
                pass

    def _assigned(self, made: Decision) -> None:
        self.counts["attempts"] += 1
        what = f"attempt {made.attempt} of call '{made.of}'"
        call = self._calls.get(made.of)
        if call is not None:
            if not call.is_runnable:
                self._broken(PLACES, f"{what} was assigned although its inputs are not there or it runs already")
            if made.attempt <= call.latest:
                self._broken(ATTEMPTS, f"{what} has a number that attempt {call.latest} had before")
            self._is_runnable(made.of, call, False)
            call.latest = made.attempt
            call.tries.add(made.attempt)
            if len(call.tries) > self._max_attempts:
                self._broken(ATTEMPTS, f"{what} is one more than the {self._max_attempts} that are permitted")
        elif self._is_complete:
            self._broken(ATTEMPTS, f"{what} was assigned, which belongs to no live run")
        self._places.take(made, what, call.node.model if call is not None else None)

    def _moved(self, made: Decision) -> None:
        """An attempt is ended for another one: it runs, has no token, is not the last but one, and has where to go."""
        self.counts["attempts moved"] += 1
        what = f"attempt {made.attempt} of call '{made.of}' was moved"
        call, place = self._calls.get(made.of), self._places.of((made.of, made.attempt))
        if call is None:
            return
        if place is None or made.attempt != call.latest or call.is_over:
            self._broken(ATTEMPTS, f"{what}, which does not run")
            return
        if call.tokens_of == made.attempt:
            self._broken(ATTEMPTS, f"{what}, which has tokens")
        if len(call.tries) > self._max_attempts - 2:
            self._broken(ATTEMPTS, f"{what}, though {len(call.tries)} of {self._max_attempts} were used")
        if not self._places.has_room_beside(place):
            self._broken(PLACES, f"{what}, but no other replica of model '{place.replica.model}' has room")

    def _lost(self, attempts: Sequence[tuple[AttemptKey, bool]] | None) -> None:
        """A replica is gone with its attempts: one that had not begun is no try of its call, the first time."""
        if attempts is None:
            return
        self.counts["replicas gone"] += 1
        self.counts["attempts lost"] += len(attempts)
        for (call_id, attempt), had_slot in attempts:
            call = self._calls.get(call_id)
            if not had_slot and call is not None and attempt in call.tries and not call.spared:
                call.spared = True
                call.tries.discard(attempt)


def check_log(head: Head, lines: Iterable[Line], *, is_over: bool = True) -> Contract:
    """Read an event log to its end and return what was found.

    Parameters
    ----------
    head, lines
        As `read_log` returns them.
    is_over
        Whether the machine had nothing more to do when the log ended: then what is under way was lost.
    """
    contract = Contract(head.max_attempts, is_complete=head.is_complete)
    for line in lines:
        contract.take(line.event, line.decisions, line.now)
    if is_over:
        contract.finish()
    return contract
