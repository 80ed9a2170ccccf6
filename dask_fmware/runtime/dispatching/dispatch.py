"""Which calls start now, and on which replica.

A policy proposes; this checks the proposal against the contract (a ready replica of the call's model, slots never
exceeded) and performs it. It does not know why calls come or go, how those are kept that wait, nor what an assignment
says beside who runs where.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf

from dask_fmware.errors import PolicyFaultError
from dask_fmware.policy.checked import CheckedPolicy
from dask_fmware.policy.kinds import candidates
from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, ReplicaView, Wait
from dask_fmware.runtime.actions import Action, Assign
from dask_fmware.runtime.dispatching.assigning import Assigner
from dask_fmware.runtime.dispatching.waiting import Waiting
from dask_fmware.runtime.foresight.outlook import ToCome
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.queue import Cursor
from dask_fmware.runtime.replicas.slots import ReplicaState
from dask_fmware.runtime.runs import attempts
from dask_fmware.runtime.runs.records import CallRecord, Runs

__all__ = ["Dispatcher"]

LOOK_AHEAD = 8  # calls that may be passed in one go, which bounds what a decision costs
LEAST_S = 0.001  # after which a call is looked at again that waits for a time that is over


def _others(views: Sequence[ReplicaView], avoided: Collection[str]) -> Sequence[ReplicaView]:
    """Replicas but those on which a call failed, if there are others."""
    return tuple(view for view in views if view.replica_id not in avoided) or views


class Dispatcher:
    """Gives calls to replicas.

    Parameters
    ----------
    policy
        Picks replicas.
    fleet
        The replicas.
    runs
        The calls.
    views
        How policies see them.
    to_come
        What policies that plan are shown.
    waiting
        The calls that wait.
    assigner
        Makes the assignments.
    """

    def __init__(
        self,
        policy: CheckedPolicy,
        fleet: Fleet,
        runs: Runs,
        views: CallViews,
        to_come: ToCome,
        waiting: Waiting,
        assigner: Assigner,
    ) -> None:
        self.policy = policy
        self._look_at: float | None = None  # when a call that waits is to be looked at again
        self._fleet = fleet
        self._runs = runs
        self._views = views
        self._to_come = to_come
        self._waiting = waiting
        self._assigner = assigner

    @property
    def wake_at(self) -> float | None:
        """When to look again, because a call waits for a time and not for an event, or a slot is about to be free."""
        due = self._fleet.comes_at if self._waiting else inf
        return self._look_at if due == inf or (self._look_at is not None and self._look_at < due) else due

    # -- calls that come and go ------------------------------------------------------------------

    def look(self, now: float) -> list[Action]:
        """The time has come that calls have waited for."""
        self._look_at = None
        return self._come(now) + self.offer(self._waiting.models, now)

    def _come(self, now: float) -> list[Action]:
        """Let calls take the slots that are about to be free, and those of replicas that open again."""
        if self._fleet.comes_at > now:
            return []
        return [action for state in self._fleet.come(now) for action in self.serve(state, now)]

    def arrive(self, call: CallRecord, now: float) -> list[Action]:
        """Decide for a call that is runnable: at once where no other waits, else when it is its turn."""
        return self._come(now) + self._arrive(call, now)

    def _arrive(self, call: CallRecord, now: float) -> list[Action]:
        model = call.node.model or ""
        if self._waiting.apart.concerns(call):
            self._waiting.comes(call)
            call.report.reason = "waits for a replica of its own: it has one attempt left"
            self._waiting.apart.push(call)
            return self.offer((model,), now)
        if model in self._waiting.queues or (self.policy.plans and self._fleet.lanes):
            self._waiting.hold(call)
            return self.offer((model,), now)
        self._waiting.comes(call)
        ticket = self._waiting.ticket(call)
        if self.policy.plans:
            try:
                self.policy.plan(self._to_come, now)  # no lanes, no plan
            except PolicyFaultError as fault:
                return [self._fail(call, fault)]
        while True:
            choice = self._choice(call, model, now)
            if isinstance(choice, Bind):
                return self._bind(call, choice, now)
            if isinstance(choice, Wait):
                call.report.reason = choice.reason
                self._look_again_at(choice.until, now)
                self._waiting.push(call, ticket)
                return []
            if isinstance(choice, PolicyFaultError):
                return [self._fail(call, choice)]
            if (rejected := self._park(call, choice, now)) is not None:
                return [rejected]
            ticket = self._waiting.ticket(call)

    def withdraw(self, call: CallRecord, now: float) -> ReplicaState | None:
        """Take a call out of whatever queue it is in and close an attempt that is under way.

        The slot of such an attempt stays taken until its worker says that it is free. Returns the
        replica in whose queue it waited.
        """
        attempts.close(call, now)
        return self._waiting.remove(call)

    def rehold(self, state: ReplicaState, now: float) -> list[Action]:
        """Decide again for the calls that waited on a replica."""
        self._waiting.rehold(state)
        return self.serve(state, now)

    # -- calls that start ------------------------------------------------------------------------

    def serve(self, state: ReplicaState, now: float) -> list[Action]:
        """Fill the free slots of a replica and of its card from their own queues, then offer what is held."""
        actions: list[Action] = []
        card = state.card
        if card.slots is None:
            while state.free_slots > 0 and (call_id := state.next_waiting()) is not None:
                actions.append(self._start_next(call_id, state, now))
            return actions + self.offer((state.replica.model,), now)
        while card.waiting and (open_ := [s for s in card.replicas if s.waiting and s.free_slots > 0]):
            first = min(open_, key=lambda s: s.first_waiting() or ((), 0, ""))
            actions.append(self._start_next(first.next_waiting() or "", first, now))
        models = dict.fromkeys([state.replica.model, *[s.replica.model for s in card.replicas]])
        return actions + self.offer(models, now)

    def offer(self, models: Iterable[str], now: float) -> list[Action]:
        """Offer held calls of some models to the policy, in its order, until one has to wait.

        A call lets others pass if the policy says so, and if it waits only because it failed on the
        replicas that have room.
        """
        actions = [] if self._waiting.apart.is_empty else self._start_apart(models, now)
        queues = self._waiting.queues
        if not queues:
            return actions
        try:
            self._start_before_others(models, now, actions)
        except PolicyFaultError as fault:  # of no call: it fails those that were about to be decided
            return actions + self._fail_held(models, fault)
        calls, fleet = self._runs.calls, self._fleet
        open_ = [Cursor(queue) for model in models if (queue := queues.get(model)) is not None]
        look_ahead = LOOK_AHEAD
        while open_:
            cursor = open_[0] if len(open_) == 1 else min(open_, key=Cursor.order)
            ticket = cursor.ticket()
            if ticket is None:
                break
            call = calls[ticket[2]]
            model = call.node.model or ""
            match choice := self._choice(call, model, now):
                case Bind():
                    cursor.take()
                    actions.extend(self._bind(call, choice, now))
                case Wait():
                    call.report.reason = choice.reason
                    self._look_again_at(choice.until, now)
                    if (choice.lets_pass and look_ahead > 0) or (
                        call.avoid and any(view.has_room for view in fleet.views(model))
                    ):
                        look_ahead -= 1
                        cursor.skip()
                    else:
                        open_.remove(cursor)
                case Park():
                    cursor.take()
                    actions.extend(self._push_behind(call, choice, now))
                case PolicyFaultError():
                    cursor.take()
                    actions.append(self._fail(call, choice))
        queues.forget_empty(models)
        return actions

    def _choice(self, call: CallRecord, model: str, now: float) -> Choice | PolicyFaultError:
        """Ask the policy. What is wrong with its answer is an error: a call without one would wait for ever."""
        if call.fault is not None:
            return call.fault
        views: Sequence[ReplicaView] = self._fleet.views(model)
        if call.avoid:
            views = _others(views, call.avoid)
        if not views:
            shut_s = self._fleet.opens_at(model) - now
            what = "ready" if shut_s == inf else f"within its rate limit, for {shut_s:.0f} s"
            return Wait(f"no replica of model '{model}' is {what}")
        if call.parked and self._rejects(call, now):
            return Park("it would be late on an idle replica")
        try:
            return self.policy.choose(self._views.view(call), views, now)
        except PolicyFaultError as fault:
            return fault

    def _park(self, call: CallRecord, choice: Park, now: float) -> Action | None:
        """Let a call go behind those that can still be in time, or reject it if its run asks for that."""
        if self._rejects(call, now):
            self._waiting.ends(call)
            return attempts.reject(call, choice.reason)
        self._waiting.park(call, choice.reason)
        return None

    def _push_behind(self, call: CallRecord, choice: Park, now: float) -> list[Action]:
        """Put a held call that is parked to its new place."""
        if (rejected := self._park(call, choice, now)) is not None:
            return [rejected]
        ticket = self._waiting.ticket(call)
        if call.fault is not None:
            return [self._fail(call, call.fault)]
        self._waiting.push(call, ticket)
        return []

    def _rejects(self, call: CallRecord, now: float) -> bool:
        """Whether the run of a call that is not expected in time asks to be rejected, and is lost beyond doubt.

        Others before it are beyond doubt. What its own calls take is an estimate, by `max_tokens` where nothing is
        known and by how much longer others took than theirs, and if all were rejected for it, nothing would ever be
        known: so it waits until not even a first token is in time.
        """
        if not call.run.may_be_rejected:
            return False
        view = self._views.view(call)
        if view.deadline is None or now + self._alone_s(view) + view.after_s <= view.deadline:
            return True
        return now + self._views.execution(view.model, view.prompt_tokens, 0.0)[0] > view.deadline

    def _alone_s(self, call: CallView) -> float:
        """Seconds of a call on an idle replica of the fastest kind, at least, with what is learnt beyond its speed."""
        kinds = candidates(call, self._fleet.views(call.model), self.policy.rank)
        if call.answers:
            return call.own_s + min((replica.delay_s for replica in kinds), default=0.0)
        return call.own_s * min((replica.stretch for replica in kinds), default=1.0)

    def _start_apart(self, models: Iterable[str], now: float) -> list[Action]:
        """Start calls that must be alone where a replica is empty, and empty another one if one more is needed."""
        actions: list[Action] = []
        for model in models:
            while (found := self._waiting.apart.next(model)) is not None:
                call = self._runs.calls[found[0]]
                actions.append(self._assign(call, found[1], "alone: it has one attempt left", now))
            if (state := self._waiting.apart.settle(model)) is not None:
                actions += self.rehold(state, now)
        return actions

    def _start_before_others(self, models: Iterable[str], now: float, actions: list[Action]) -> None:
        """Start a call whose turn it is, and what is planned to start now."""
        if self.policy.takes_turns and (places := self.policy.turns()):
            actions += self._start_turn(places, models, now)
        if self.policy.plans:
            self._start_planned(now, actions)

    def _start_turn(self, places: Sequence[tuple[float, ...]], models: Iterable[str], now: float) -> list[Action]:
        """Start a call before others, if one is found at these places of the order and the policy still wants it."""
        for model in models:
            queue = self._waiting.queues.get(model)
            for ticket in filter(None, map(queue.after, places)) if queue is not None else ():
                call = self._runs.calls[ticket[2]]
                if call.parked and self._rejects(call, now):
                    continue
                views = _others(self._fleet.views(model), call.avoid) if call.avoid else self._fleet.views(model)
                try:
                    choice = self.policy.take_turn(self._views.view(call), views, now) if views else None
                except PolicyFaultError as fault:
                    self._waiting.queues.remove(model, ticket[2])
                    return [self._fail(call, fault)]
                if choice is not None:
                    self._waiting.queues.remove(model, ticket[2])
                    return self._bind(call, choice, now)
        return []

    def _start_planned(self, now: float, actions: list[Action]) -> None:
        """Start what a policy that plans wants to start now."""
        plan = self.policy.plan(self._to_come, now)
        if plan is None:
            return
        for start in plan.starts:
            call = self._runs.calls.get(start.call_id)
            if call is not None and self._waiting.queues.remove(call.node.model or "", start.call_id):
                actions.extend(self._bind(call, Bind(start.replica_id, start.reason, start.priority), now))
        self._look_again_at(plan.wake_at, now)

    def _look_again_at(self, when: float | None, now: float) -> None:
        if when is None or when == inf:
            return
        if when <= now:  # at once the answer would be the same, without end
            when = now + LEAST_S
        if self._look_at is None or when < self._look_at:
            self._look_at = when

    def _bind(self, call: CallRecord, choice: Bind, now: float) -> list[Action]:
        """Give a call to the replica that the policy chose: a slot if one is free, else its queue."""
        if call.fault is not None:
            return [self._fail(call, call.fault)]
        state = self._fleet.get(choice.replica_id)
        if state is None or not state.standing.is_offered or state.replica.model != call.node.model:
            what = f"chose '{choice.replica_id}', which is no ready replica of model '{call.node.model}'"
            return [self._fail(call, PolicyFaultError(f"policy '{self.policy.name}': {what}"))]
        call.report.reason = choice.reason
        if state.free_slots > 0 and not state.waiting and (state.card.slots is None or not state.card.waiting):
            return [self._assign(call, state, choice.reason, now, choice.priority)]
        ticket = self._waiting.ticket(call)
        if call.fault is not None:
            return [self._fail(call, call.fault)]
        self._waiting.enqueue(call, state, ticket)
        return []

    def _fail_held(self, models: Iterable[str], fault: PolicyFaultError) -> list[Action]:
        """End the calls of some models that are held."""
        queues = [queue for model in models if (queue := self._waiting.queues.pop(model, None)) is not None]
        calls = [self._runs.calls[ticket[2]] for queue in queues for ticket in queue]
        return [self._fail(call, fault) for call in calls]

    def _fail(self, call: CallRecord, fault: PolicyFaultError) -> Action:
        """End a call that the policy has no answer to, which was taken out of its queue."""
        self._waiting.ends(call)
        error = PolicyFaultError(
            f"workflow '{call.run.plan.workflow}', node '{call.node.name}': {fault}; choose another policy and report "
            "this one"
        )
        error.__cause__ = fault.__cause__
        return attempts.fail(call, error)

    def _start_next(self, call_id: str, state: ReplicaState, now: float) -> Assign:
        call = self._runs.calls[call_id]
        return self._assign(call, state, call.report.reason, now)

    def _assign(
        self, call: CallRecord, state: ReplicaState, reason: str, now: float, priority: float | None = None
    ) -> Assign:
        self._waiting.starts(call)
        return self._assigner.assign(call, state, reason, now, priority)
