"""The machine that decides where and when every model call runs: events in, actions out.

It owns the life of calls and the contract of calls and runs: attempts are bounded, every accepted run ends once, and
once more after each retry. Who waits where and what starts is decided in `dispatching`. It knows no Dask, no engine and
no clock: `now` comes with each event, and equal events give equal actions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import assert_never

from dask_fmware.model.report import CallState, RunReport
from dask_fmware.policy.checked import CheckedPolicy
from dask_fmware.policy.protocol import CallView, Policy
from dask_fmware.profile.law import StepLaw
from dask_fmware.runtime.actions import Action, Hold, Skip
from dask_fmware.runtime.dispatching.apart import Apart
from dask_fmware.runtime.dispatching.assigning import Assigner
from dask_fmware.runtime.dispatching.dispatch import Dispatcher
from dask_fmware.runtime.dispatching.hedging import Hedging
from dask_fmware.runtime.dispatching.waiting import Waiting
from dask_fmware.runtime.events import (
    AttemptEnded,
    Branched,
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Event,
    FirstToken,
    ModelAbandoned,
    Overdue,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
    StepsTimed,
    Tick,
)
from dask_fmware.runtime.foresight.live_slack import CallSlack, live_slack
from dask_fmware.runtime.foresight.outlook import ToCome
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.lessons import Lessons
from dask_fmware.runtime.observer import Observers
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.slots import ReplicaState, Stay
from dask_fmware.runtime.run_life import RunLife
from dask_fmware.runtime.runs import attempts
from dask_fmware.runtime.runs.admission import ModelLimits
from dask_fmware.runtime.runs.hopeless import Hopeless
from dask_fmware.runtime.runs.records import TERMINAL, CallRecord, Runs
from dask_fmware.runtime.runs.shares import Shares

__all__ = ["Machine", "ModelLimits"]


class Machine:
    """Calls, replicas and the decisions between them.

    Parameters
    ----------
    policy
        Picks replicas.
    models
        Deployed models; a run that names another is refused unless a replica of it is there.
    max_attempts
        Tries of one call before its run fails.
    max_held
        Calls held before new runs are refused.
    keep_runs
        Reports remembered of runs that nobody holds any more.
    laws
        Step-time laws by model and accelerator, where profiles are known.
    tenants
        Weights of tenants; 1 for all others.
    stall_s
        The least time without a token after which an attempt is given up; 0 is never.
    hedge_budget
        Tokens of calls that are tried elsewhere because they give none in time, of all; 0 is never.
    unhedged
        Models whose calls never are.
    predicts
        Whether what is told of calls, and hedging goes by, is brought nearer by what finished calls took beside their
        predictions. No other decision depends on it.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        models: Mapping[str, ModelLimits] | None = None,
        max_attempts: int = 3,
        max_held: int = 100_000,
        keep_runs: int = 10_000,
        laws: Mapping[tuple[str, str], StepLaw] | None = None,
        tenants: Mapping[str, float] | None = None,
        stall_s: float = 0.0,
        hedge_budget: float = 0.0,
        unhedged: Collection[str] = (),
        predicts: bool = True,
    ) -> None:
        self.observers = Observers()
        self.models = dict(models or {})
        self.policy = checked = CheckedPolicy(policy)
        self.fleet = Fleet(checked.rank, laws)
        self.runs = Runs(keep_runs)
        self.views = CallViews(self.fleet, self.models)
        self.knowledge = self.views.knowledge  # what finished calls have taught
        self.to_come = ToCome(self.fleet, self.runs, self.views)
        self.tenants = dict(tenants or {})
        self.shares = Shares(self.tenants)
        self.hedging = Hedging(self.fleet, self.views, hedge_budget, unhedged, max_attempts)
        seen = self.fleet, self.runs, self.views, self.to_come
        self.waiting = Waiting(checked, *seen, Apart(self.fleet, max_attempts))
        assigner = Assigner(self.fleet, self.views, self.shares, self.hedging, stall_s)
        self.dispatcher = Dispatcher(checked, *seen, self.waiting, assigner)
        self.max_attempts = max_attempts
        self.max_held = max_held
        self.hopeless = Hopeless(max_attempts)
        self._run_life = RunLife(self.runs, self.views, self.to_come, self.shares, self.waiting, max_held)
        self._lessons = Lessons(self.fleet, self.knowledge, predicts)
        self._arrivals = 0

    # -- the one door ----------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened and return what is to be done, in order."""
        actions = self._take(event, now)
        self.observers.tell(event, actions, now)
        self.runs.forget_dropped()
        return actions

    def _take(self, event: Event, now: float) -> list[Action]:
        match event:  # what is frequent first
            case CallRunnable():
                return self._call_runnable(event.call_id, now)
            case AttemptEnded():
                return self._attempt_ended(event, now)
            case FirstToken():
                if (call := self.runs.calls.get(event.call_id)) is not None:
                    attempts.first_token(call, event.attempt, now)
                self.fleet.processed(event.call_id, event.attempt, now)
                return []
            case RunSubmitted():
                return self._run_life.submitted(event.plan, now)
            case RunEnded():
                self._run_life.ended(event, now)
                return []
            case RunRetried():
                return self._run_life.retried(event.run_id, now)
            case RunDropped():
                return self._run_dropped(event.run_id, now)
            case Branched():
                self._run_life.branched(event)
                return []
            case CallWithdrawn():
                return self._call_gone(event.call_id, now, dropped=False)
            case CallRetried():
                call = self.runs.calls.get(event.call_id)
                if call is not None and call.report.state in ("failed", "rejected"):
                    attempts.start_over(call)
                return []
            case CallDropped():
                return self._call_gone(event.call_id, now, dropped=True)
            case StepsTimed():
                if (changed := self.fleet.timed(event, now)) is not None:
                    self.views.replicas_changed(changed.replica.model)
                return []
            case Overdue():
                call = self.runs.calls.get(event.call_id)
                return [] if call is None else [*self.hedging.overdue(call, event.attempt, now)]
            case ReplicaReady():
                return self._replica_ready(event, now)
            case ReplicaGone():
                return self._replica_gone(event.replica_id, event.reason, now)
            case ReplicaDraining():
                return self._replica_draining(event.replica_id, event.draining, now)
            case ModelAbandoned():
                return self._model_abandoned(event)
            case Tick():
                return self.dispatcher.look(now)
        assert_never(event)

    # -- what others may ask ---------------------------------------------------------------------

    def report(self, run_id: str) -> RunReport | None:
        """Return what is known of a run, or None."""
        return self.runs.report(run_id)

    def slack(self, run_id: str, now: float, quantile: float = 0.9) -> Iterator[tuple[str, CallSlack]]:
        """Yield what the calls of a live run have left at `now`, with their ids; the run may go on meanwhile."""
        run = self.runs.get(run_id)
        if run is None:
            return iter(())
        calls = [self.runs.calls[call.call_id] for call in run.report.calls if call.call_id in self.runs.calls]
        return live_slack(run, calls, self.views, self.fleet, now, quantile)

    @property
    def held(self) -> int:
        """Calls that wait, centrally or in the queue of a replica."""
        return len(self.waiting)

    @property
    def wake_at(self) -> float | None:
        """When a `Tick` is due, because a call waits for a time and not for an event."""
        return self.dispatcher.wake_at

    def view(self, call: CallRecord) -> CallView:
        """Return a call as policies see it."""
        return self.views.view(call)

    # -- calls -----------------------------------------------------------------------------------

    def _call_runnable(self, call_id: str, now: float) -> list[Action]:
        call = self.runs.calls.get(call_id)
        if call is None:
            return []
        freed = self.dispatcher.withdraw(call, now) if call.report.runnable_at is not None else None
        actions = self._come_runnable(call, now)
        return actions if freed is None else actions + self.dispatcher.serve(freed, now)

    def _come_runnable(self, call: CallRecord, now: float) -> list[Action]:
        call_id, report, run = call.call_id, call.report, call.run
        if (why := run.skips(call)) is not None:
            call.becomes("skipped", why)
            return [Skip(call_id, why)]
        is_new, is_remade = report.runnable_at is None, report.state == "finished"
        if is_remade:
            call.forget_tries()  # its result was lost, which is no failure of the call
        if is_new and call.plan_id == run.plan.run_id:
            self._run_life.paused(run, call.node.name, now)
        if is_new or is_remade:
            report.runnable_at = now - run.report.submitted
            self._arrivals += 1
            call.arrival = self._arrivals
        if (failed := self.hopeless.ended(call, now)) is not None:
            return [failed]
        call.parked = False
        actions = self.dispatcher.arrive(call, now)
        if report.state in ("held", "queued"):
            actions.append(Hold(call_id, report.reason))
        return actions

    def _call_gone(self, call_id: str, now: float, *, dropped: bool) -> list[Action]:
        call = self.runs.calls.get(call_id)
        on = self._let_go(call, "cancelled" if dropped else "planned", now) if call is not None else None
        return self.dispatcher.serve(on, now) if on is not None else []

    def _run_dropped(self, run_id: str, now: float) -> list[Action]:
        unwanted = RunEnded(run_id, "cancelled", "nobody waits for its result")
        self._run_life.ended(unwanted, now)  # if it did not end before
        freed = [self._let_go(call, "cancelled", now) for call in self.runs.calls_of(run_id)]
        self.runs.drop(run_id, now)
        return [action for state in freed if state is not None for action in self.dispatcher.serve(state, now)]

    def _let_go(self, call: CallRecord, becomes: CallState, now: float) -> ReplicaState | None:
        """Withdraw a call unless it is over already."""
        if call.report.state in TERMINAL:
            return None
        on = self.dispatcher.withdraw(call, now)
        call.becomes(becomes)
        return on

    def _attempt_ended(self, event: AttemptEnded, now: float) -> list[Action]:
        call, is_finished = self.runs.calls.get(event.call_id), event.outcome == "finished"
        freed = self.fleet.free(event.call_id, event.attempt, now, has_tokens=is_finished)
        if call is not None and event.outcome == "undelivered":
            attempts.undelivered(call, event.attempt, now)
        if freed is None:
            return []  # said before, or its replica was lost
        state, stay = freed
        if event.outcome == "undelivered":
            if stay.began_at is None:
                self.fleet.late(state)
        elif call is not None:
            self._record(call, event, stay, state, now)
        if is_finished:
            self.fleet.trust(state)
        elif event.outcome == "retry" and not event.is_sound:
            self.fleet.restate(state, is_shaky=True)
        self._begun(now)
        if event.shut_s:
            self.fleet.shut(state, now + event.shut_s)
            return self.dispatcher.rehold(state, now)
        return self.dispatcher.serve(state, now)

    def _begun(self, now: float) -> None:
        """Write down which attempts have a slot by now that were ahead."""
        while self.fleet.begun:
            call_id, number = self.fleet.begun.pop(0)
            if (call := self.runs.calls.get(call_id)) is not None:
                attempts.begun(call, number, now)

    def _record(self, call: CallRecord, event: AttemptEnded, stay: Stay, state: ReplicaState, now: float) -> None:
        """Write down how an attempt ended, and learn from it."""
        was_ahead = stay.began_at is None or stay.began_at > stay.given_at
        shares_card = state.replica.card_slots is not None  # with engines that wait for it where no worker sees it
        attempt = attempts.end(call, event, now, stay.given_at if was_ahead and not shares_card else None)
        if attempt is not None and event.outcome == "finished":
            self._lessons.finished(call, attempt, event, stay, state, now)

    # -- replicas --------------------------------------------------------------------------------

    def _replica_ready(self, event: ReplicaReady, now: float) -> list[Action]:
        replica = event.replica
        known = self.fleet.get(replica.replica_id)
        if known is not None and known.replica.serves_on_as(replica):
            self.fleet.renew(known, replica)  # it was profiled meanwhile, and serves on
            self.views.replicas_changed(replica.model)
            return []
        lost = self._replica_gone(replica.replica_id, "it started again", now) if known is not None else []
        self.fleet.restate(self.fleet.add(replica), is_draining=event.draining)
        self.hopeless.hope(replica.model)
        if self.views.replicas_changed(replica.model):
            self.waiting.reorder(replica.model)
        return [*lost, *self.dispatcher.offer((replica.model,), now)]

    def _replica_gone(self, replica_id: str, reason: str, now: float) -> list[Action]:
        state = self.fleet.remove(replica_id, now)
        if state is None:
            return []
        if state.running or state.standing.is_shaky:
            self.fleet.distrust(state.replica.name)
        self._begun(now)
        for (call_id, number), stay in state.running.items():
            call = self.runs.calls.get(call_id)
            if call is not None and (attempt := call.attempt) is not None and attempt.attempt == number:
                attempts.lose(call, now, reason, began=stay.began_at is not None)
        self.views.replicas_changed(state.replica.model)
        return self.dispatcher.rehold(state, now)

    def _replica_draining(self, replica_id: str, draining: bool, now: float) -> list[Action]:
        state = self.fleet.get(replica_id)
        if state is None:
            return []
        self.fleet.restate(state, is_draining=draining)
        return self.dispatcher.rehold(state, now) if draining else self.dispatcher.serve(state, now)

    def _model_abandoned(self, event: ModelAbandoned) -> list[Action]:
        self.hopeless.hope(event.model)
        if not event.reason or self.fleet.of(event.model):
            return []
        self.hopeless.abandon(event.model, event.reason)
        return [self.hopeless.unserved(call) for call in self.waiting.give_up(event.model)]
