"""The machine that decides where and when every model call runs: events in, actions out.

It owns the state of runs, calls and replicas and the contract between them: a call runs only on a
ready replica of its model below its slots, attempts are bounded, every accepted run ends once. A
policy proposes a replica; the machine checks and performs. It knows no Dask, no engine and no clock:
`now` comes with each event, and equal events give equal actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

from dask_fmware.errors import AttemptsExhaustedError, DeadlineRejectedError, FMwareError, RuntimeFaultError
from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.model.report import AttemptReport, CallState, RunReport
from dask_fmware.policy import estimate
from dask_fmware.policy.estimate import execution_s
from dask_fmware.policy.protocol import Bind, CallView, Park, Policy, ReplicaView, Wait
from dask_fmware.profile.law import StepLaw
from dask_fmware.runtime.actions import Action, Assign, Fail, Hold, Refuse, Skip
from dask_fmware.runtime.admission import ModelLimits, least_prompt_tokens, refusal
from dask_fmware.runtime.events import (
    AttemptEnded,
    Branched,
    CallDropped,
    CallRunnable,
    CallWithdrawn,
    Event,
    FirstToken,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunSubmitted,
    Tick,
)
from dask_fmware.runtime.fleet import Fleet, Held, ReplicaState
from dask_fmware.runtime.knowledge import Knowledge, base_name
from dask_fmware.runtime.observer import Observer
from dask_fmware.runtime.queue import CallQueue, Ticket
from dask_fmware.runtime.runs import TERMINAL, CallRecord, RunRecord, Runs
from dask_fmware.spec.deployment import Latency

__all__ = ["Machine", "ModelLimits"]


LOOK_AHEAD = 8  # calls that may be passed in one go, which bounds what a decision costs


def _first_ticket(entry: tuple[str, CallQueue]) -> Ticket:
    ticket = entry[1].first()
    assert ticket is not None
    return ticket


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
    ) -> None:
        self.policy = policy
        self.observers: list[Observer] = []
        self.models = dict(models or {})
        self.fleet = Fleet(policy.rank, laws)
        self.runs = Runs(keep_runs)
        self.knowledge = Knowledge(self._execution)
        self.max_attempts = max_attempts
        self.max_held = max_held
        self._queues: dict[str, CallQueue] = {}  # model -> calls that are held, no queue is empty
        self._waiting: set[str] = set()  # calls in any queue
        self._fastest: dict[str, Latency] = {}  # model -> figure of its fastest replicas
        self._arrivals = 0
        self.wake_at: float | None = None  # when a `Tick` is due, because a call waits for a time and not for an event

    # -- the one door ----------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened and return what is to be done, in order."""
        actions = self._take(event, now)
        for observer in self.observers:
            observer.observe(event, actions, now)
        return actions

    def _take(self, event: Event, now: float) -> list[Action]:
        match event:
            case RunSubmitted():
                return self._run_submitted(event.plan, now)
            case CallRunnable():
                return self._call_runnable(event.call_id, now)
            case CallWithdrawn():
                return self._call_gone(event.call_id, now, dropped=False)
            case CallDropped():
                return self._call_gone(event.call_id, now, dropped=True)
            case Branched():
                if (run := self.runs.get(event.run_id)) is not None:
                    run.branches[event.run_id, event.switch] = event.branch
                    self.knowledge.observe_branch(run.plan.workflow, event.switch, event.branch)
                return []
            case FirstToken():
                return self._first_token(event, now)
            case AttemptEnded():
                return self._attempt_ended(event, now)
            case RunEnded():
                return self._run_ended(event, now)
            case RunDropped():
                return self._run_dropped(event.run_id, now)
            case ReplicaReady():
                state = self.fleet.get(event.replica.replica_id)
                lost = self._replica_gone(event.replica.replica_id, "it started again", now) if state else []
                self.fleet.add(event.replica)
                self._fastest.pop(event.replica.model, None)
                return [*lost, *self._pump((event.replica.model,), now)]
            case ReplicaGone():
                return self._replica_gone(event.replica_id, event.reason, now)
            case ReplicaDraining():
                return self._replica_draining(event.replica_id, event.draining, now)
            case Tick():
                self.wake_at = None
                return self._pump(list(self._queues), now)
        assert_never(event)

    # -- what others may ask ---------------------------------------------------------------------

    def knows(self, call_id: str) -> bool:
        """Whether a Dask key is a call of a live run."""
        return call_id in self.runs.calls

    def report(self, run_id: str) -> RunReport | None:
        """Return what is known of a run, or None."""
        return self.runs.report(run_id)

    @property
    def held(self) -> int:
        """Calls that wait, centrally or in the queue of a replica."""
        return len(self._waiting)

    def view(self, call: CallRecord) -> CallView:
        """Return a call as policies see it."""
        if call.view is None:
            node, run, knowledge = call.node, call.run, self.knowledge
            workflow = run.plan.workflow
            shape = run.shape
            if shape is None:
                shape = run.shape = knowledge.shape(run.plan)
            prompt = knowledge.prompts.expected(workflow, node.name, 1 << 30)
            least = self._least_prompt(node)
            after_s, deadline = 0.0, run.deadline
            if deadline is not None and not node.answers:
                root = run.plan.run_id
                decided = frozenset((switch, taken) for (plan, switch), taken in run.branches.items() if plan == root)
                after_s = knowledge.after_s(shape, node.name, decided)
            submitted = run.report.submitted
            call.view = CallView(
                node.key,
                workflow,
                node.name,
                node.model or "",
                run.plan.tenant,
                run.plan.priority,
                submitted + (call.report.runnable_at or 0.0),
                deadline,
                max(least, round(prompt)) if prompt < 1 << 30 else least,
                knowledge.outputs.expected(workflow, node.name, node.max_tokens),
                node.answers,
                call.tries + 1,
                after_s,
                knowledge.call_s(workflow, node),
                None if deadline is None else submitted + (deadline - submitted) * knowledge.share(shape, node.name),
                call.parked,
                submitted,
                run.begun,
            )
        return call.view

    def _least_prompt(self, node: PlannedNode) -> int:
        limits = self._limits(node.model or "") if node.prompt_bytes else None
        return least_prompt_tokens(node.prompt_bytes, limits) if limits else 0

    def _execution(self, model: str, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        """First token and completion on an idle replica of the fastest kind; 0 while none is known."""
        latency = self._fastest.get(model)
        if latency is None:
            offered = [state.replica.latency for state in self.fleet if state.replica.model == model]
            if not offered:
                return 0.0, 0.0
            latency = self._fastest[model] = min(offered, key=lambda figure: execution_s(figure, 500, 50))
        first_s = execution_s(latency, prompt_tokens, 0.0)
        return first_s, first_s + output_tokens * latency.output_token_s

    # -- runs ------------------------------------------------------------------------------------

    def _run_submitted(self, plan: RunPlan, now: float) -> list[Action]:
        run = self.runs.add(plan, now)
        if run is None:
            return []
        error = refusal(
            plan,
            limits=self._limits,
            hosted={*self.models, *self.fleet.models},
            held=len(self._waiting),
            max_held=self.max_held,
        )
        if error is None:
            if plan.part_of is not None:
                self._body_submitted(plan, run)
            return []
        if plan.part_of is None:
            run.report.state, run.report.reason, run.report.finished_at = "refused", str(error), 0.0
        return [Refuse(plan.run_id, error)]

    def _body_submitted(self, plan: RunPlan, run: RunRecord) -> None:
        base = base_name(plan.nodes[0].name) if plan.nodes else ""
        self.knowledge.observe_body(run.plan.workflow, base, plan.nodes)
        before = [c for c in run.report.calls if c.node.startswith(base + "[")][: -len(plan.nodes)]
        if all(call.state in TERMINAL for call in before):
            run.rounds[base] = run.rounds.get(base, 0) + 1

    def _limits(self, model: str) -> ModelLimits | None:
        limits = self.models.get(model)
        if limits is None and self.fleet.hosts(model):
            replica = self.fleet.first(model)
            assert replica is not None
            limits = ModelLimits(replica.context_tokens, replica.longest_token_bytes)
        return limits

    def _run_ended(self, event: RunEnded, now: float) -> list[Action]:
        run = self.runs.get(event.run_id)
        if run is None or run.plan.run_id != event.run_id or run.report.state != "running":
            return []
        report = run.report
        report.state, report.reason, report.finished_at = event.state, event.reason, now - report.submitted
        firsts = [
            call.last.first_token_at
            for call in report.calls
            if call.answers and call.state != "skipped" and call.last and call.last.first_token_at is not None
        ]
        report.first_token_at = max(firsts, default=report.finished_at if event.state == "finished" else None)
        for base, rounds in run.rounds.items():
            self.knowledge.observe_rounds(run.plan.workflow, base, rounds)
        return []

    def _run_dropped(self, run_id: str, now: float) -> list[Action]:
        self._run_ended(RunEnded(run_id, "cancelled", "nobody waits for its result"), now)  # if it did not end before
        freed = [self._let_go(call, "cancelled", now) for call in self.runs.drop(run_id)]
        return [action for state in freed if state is not None for action in self._serve(state, now)]

    # -- calls -----------------------------------------------------------------------------------

    def _call_runnable(self, call_id: str, now: float) -> list[Action]:
        call = self.runs.calls.get(call_id)
        if call is None:
            return []
        self._withdraw(call, now)
        report, run = call.report, call.run
        if (why := run.skips(call)) is not None:
            report.state, report.reason = "skipped", why
            return [Skip(call_id, why)]
        if report.state == "finished":
            call.tries = 0  # its result was lost, which is no failure of the call
        if report.runnable_at is None or report.state == "finished":
            report.runnable_at = now - run.report.submitted
            if call.plan_id == run.plan.run_id:
                self.knowledge.observe_pause(run.plan.workflow, call.node.name, now - run.idle_since)
            self._arrivals += 1
            call.arrival = self._arrivals
        if call.tries >= self.max_attempts:
            last = report.last.error if report.last and report.last.error else "its replicas were lost"
            return self._fail(
                call,
                AttemptsExhaustedError(
                    f"workflow '{run.plan.workflow}', node '{call.node.name}': {call.tries} attempts failed "
                    f"(router.max_attempts={self.max_attempts}), the last: {last}"
                ),
            )
        deadline, objective = run.deadline, run.plan.objective
        if deadline is not None and objective is not None and objective.on_miss == "reject" and now > deadline:
            return self._reject(call, f"{now - deadline:.3f} s past the deadline of its run")
        call.parked = False
        self._hold(call)
        assert call.node.model is not None
        actions = self._pump((call.node.model,), now)
        if report.state in ("held", "queued"):
            actions.append(Hold(call_id, report.reason))
        return actions

    def _fail(self, call: CallRecord, error: FMwareError) -> list[Action]:
        call.report.state, call.report.reason = "failed", str(error)
        return [Fail(call.call_id, error)]

    def _reject(self, call: CallRecord, why: str) -> list[Action]:
        return self._fail(
            call,
            DeadlineRejectedError(
                f"workflow '{call.run.plan.workflow}', node '{call.node.name}': {why} (on_miss='reject'); "
                "use on_miss='finish' to have it served late"
            ),
        )

    def _call_gone(self, call_id: str, now: float, *, dropped: bool) -> list[Action]:
        call = self.runs.calls.get(call_id)
        on = self._let_go(call, "cancelled" if dropped else "planned", now) if call is not None else None
        return self._serve(on, now) if on is not None else []

    def _let_go(self, call: CallRecord, becomes: CallState, now: float) -> ReplicaState | None:
        """Withdraw a call unless it is over already."""
        if call.report.state in TERMINAL:
            return None
        on = self._withdraw(call, now)
        call.report.state = becomes
        return on

    def _withdraw(self, call: CallRecord, now: float) -> ReplicaState | None:
        """Take a call out of whatever queue it is in and close an attempt that is under way.

        The slot of such an attempt stays taken until its worker says that it is free. Returns the
        replica in whose queue it waited.
        """
        model = call.node.model or ""
        if (queue := self._queues.get(model)) is not None and queue.remove(call.call_id) and not queue:
            del self._queues[model]
        self._waiting.discard(call.call_id)
        if (attempt := call.attempt) is not None:
            attempt.outcome, attempt.ended_at = "lost", now - call.run.report.submitted
        state = self.fleet.get(call.queued_on) if call.queued_on is not None else None
        call.queued_on = None
        if state is not None and state.withdraw(call.call_id):
            self.fleet.changed(state)
            return state
        return None

    def _hold(self, call: CallRecord) -> None:
        """Put a call into the central queue of its model."""
        self._waiting.add(call.call_id)
        call.report.state, call.report.reason = "held", "other calls of its model are served first"
        call.view = None
        self._push(call)

    def _push(self, call: CallRecord) -> None:
        model = call.node.model or ""
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = CallQueue()
        queue.push(self._ticket(call))

    def _ticket(self, call: CallRecord) -> Ticket:
        return self.policy.order(self.view(call)), call.arrival, call.call_id

    def _pump(self, models: Iterable[str], now: float) -> list[Action]:
        """Offer held calls of some models to the policy, in its order, until one has to wait.

        A call lets others pass if the policy says so, and if it waits only because it failed on the
        replicas that have room.
        """
        actions: list[Action] = []
        open_ = [(model, self._queues[model]) for model in models if model in self._queues]
        passed: list[tuple[CallQueue, Ticket]] = []
        look_ahead = LOOK_AHEAD
        while open_:
            if len(open_) > 1:
                open_ = [(model, queue) for model, queue in open_ if queue]
                if not open_:
                    break
                model, queue = min(open_, key=_first_ticket)
            else:
                model, queue = open_[0]
            ticket = queue.first()
            if ticket is None:
                break
            call = self.runs.calls[ticket[2]]
            views = self._candidates(call)
            choice = (
                self.policy.choose(self.view(call), views, now)
                if views
                else Wait(f"no replica of model '{model}' is ready")
            )
            match choice:
                case Bind():
                    queue.pop()
                    actions.extend(self._bind(call, choice, now))
                case Park():
                    queue.pop()
                    if (objective := call.run.plan.objective) is not None and objective.on_miss == "reject":
                        self._waiting.discard(call.call_id)
                        actions.extend(self._reject(call, choice.reason))
                        continue
                    call.parked, call.view, call.report.reason = True, None, choice.reason
                    self._push(call)
                case Wait():
                    call.report.reason = choice.reason
                    if choice.until is not None and (self.wake_at is None or choice.until < self.wake_at):
                        self.wake_at = choice.until
                    everywhere = self.fleet.views(model)
                    if (choice.lets_pass and look_ahead > 0) or (
                        len(views) != len(everywhere) and any(view.has_room for view in everywhere)
                    ):
                        look_ahead -= 1
                        queue.pop()
                        passed.append((queue, ticket))
                    else:
                        open_.remove((model, queue))
        for queue, ticket in passed:
            queue.push(ticket)
        for model in models:
            if model in self._queues and not self._queues[model]:
                del self._queues[model]
        return actions

    def _candidates(self, call: CallRecord) -> Sequence[ReplicaView]:
        """Ready replicas for a call: without those it failed on, if there are others."""
        views = self.fleet.views(call.node.model or "")
        if call.avoid:
            return tuple(v for v in views if v.replica_id not in call.avoid) or views
        return views

    def _bind(self, call: CallRecord, choice: Bind, now: float) -> list[Action]:
        """Give a call to the replica that the policy chose: a slot if one is free, else its queue."""
        state = self.fleet.get(choice.replica_id)
        if state is None or state.draining or state.replica.model != call.node.model:
            self._waiting.discard(call.call_id)
            return self._fail(
                call,
                RuntimeFaultError(
                    f"workflow '{call.run.plan.workflow}', node '{call.node.name}': policy '{self.policy.name}' chose "
                    f"'{choice.replica_id}', which is no ready replica of model '{call.node.model}'; "
                    "choose another policy and report this one"
                ),
            )
        call.report.reason = choice.reason
        if state.free_slots > 0 and not state.waiting and (state.card.slots is None or not state.card.waiting):
            return [self._assign(call, state, choice.reason, now, choice.priority)]
        call.report.state, call.queued_on = "queued", choice.replica_id
        state.enqueue(self._ticket(call), self._expected_s(self.view(call), state))
        self.fleet.changed(state)
        return []

    def _expected_s(self, view: CallView, state: ReplicaState) -> float:
        return execution_s(state.replica.latency, view.prompt_tokens, view.output_tokens)

    def _assign(
        self, call: CallRecord, state: ReplicaState, reason: str, now: float, priority: float | None = None
    ) -> Assign:
        report, replica = call.report, state.replica
        call.tries += 1
        call.queued_on = None
        self._waiting.discard(call.call_id)
        view = self.view(call)
        expected_s = estimate.expected_s(view.prompt_tokens, view.output_tokens, self.fleet.view(state), now)
        number = report.last.attempt + 1 if report.last else 1
        while self.fleet.holds(call.call_id, number):  # a run of the same id was dropped, and its abort is under way
            number += 1
        attempt = AttemptReport(
            attempt=number,
            replica=replica.name,
            replica_id=replica.replica_id,
            accelerator=replica.accelerator,
            card=replica.card,
            reason=reason,
            started_at=now - call.run.report.submitted,
            predicted_s=expected_s,
        )
        report.attempts.append(attempt)
        report.state, report.reason = "running", reason
        call.run.begun = True
        held = Held(now + expected_s, view.prompt_tokens + int(view.output_tokens / 2))
        law = self.fleet.law(replica)
        if law is not None:
            state.prefill_until = max(state.prefill_until, now) + law.prefill_s(view.prompt_tokens)
        self.fleet.take(state, call.call_id, attempt.attempt, held)
        if priority is None:
            priority = -float(call.run.plan.priority)
        return Assign(call.call_id, replica.replica_id, attempt.attempt, priority, reason)

    # -- attempts --------------------------------------------------------------------------------

    def _first_token(self, event: FirstToken, now: float) -> list[Action]:
        call = self.runs.calls.get(event.call_id)
        if call is None or (attempt := call.attempt) is None or attempt.attempt != event.attempt:
            return []
        if attempt.first_token_at is not None:
            return []
        at = now - call.run.report.submitted
        attempt.first_token_at = at
        if call.node.answers and call.run.report.first_token_at is None:
            call.run.report.first_token_at = at
        return []

    def _attempt_ended(self, event: AttemptEnded, now: float) -> list[Action]:
        state = self.fleet.free(event.call_id, event.attempt)
        call = self.runs.calls.get(event.call_id)
        if state is None:
            return []  # said before, or its replica was lost
        if call is not None:
            self._record(call, event, now)
        return self._serve(state, now)

    def _record(self, call: CallRecord, event: AttemptEnded, now: float) -> None:
        """Write the outcome of an attempt into its call."""
        attempt = next((a for a in reversed(call.report.attempts) if a.attempt == event.attempt), None)
        if attempt is None:
            return  # of a run of the same id, which was dropped
        attempt.prompt_tokens, attempt.output_tokens = event.prompt_tokens, event.output_tokens
        attempt.cached_tokens, attempt.error = event.cached_tokens, event.error
        attempt.is_repaired = event.is_repaired
        if attempt is not call.attempt:
            return  # withdrawn or lost before; only its slot was still taken
        attempt.outcome, attempt.ended_at = event.outcome, now - call.run.report.submitted
        if attempt.first_token_at is None and event.ttft_s is not None:  # only answers report it when it comes
            attempt.first_token_at = min(attempt.started_at + event.ttft_s, attempt.ended_at)
        match event.outcome:
            case "finished":
                call.report.state = "finished"
                call.avoid.clear()
                call.run.idle_since = now
                workflow = call.run.plan.workflow
                self.knowledge.observe_call(workflow, call.node.name, event.prompt_tokens, event.output_tokens)
                if attempt.predicted_s and attempt.ended_at is not None and not call.node.answers:
                    stretch = self.fleet.stretches[call.node.model or "", attempt.accelerator]
                    stretch.observe(0, attempt.predicted_s, attempt.ended_at - attempt.started_at)
            case "failed":
                call.report.state, call.report.reason = "failed", event.error
            case "skipped":
                call.report.state, call.report.reason = "skipped", "its branch was not taken"
            case "retry" | "aborted":
                call.report.state = "planned"
                call.avoid.add(attempt.replica_id)

    # -- replicas --------------------------------------------------------------------------------

    def _serve(self, state: ReplicaState, now: float) -> list[Action]:
        """Fill the free slots of a replica and of its card from their own queues, then offer what is held."""
        actions: list[Action] = []
        card = state.card
        if card.slots is None:
            while state.free_slots > 0 and (call_id := state.next_waiting()) is not None:
                actions.append(self._start_next(call_id, state, now))
            return actions + self._pump((state.replica.model,), now)
        while card.waiting and (open_ := [s for s in card.replicas if s.waiting and s.free_slots > 0]):
            first = min(open_, key=lambda s: s.first_waiting() or ((), 0, ""))
            actions.append(self._start_next(first.next_waiting() or "", first, now))
        models = dict.fromkeys([state.replica.model, *[s.replica.model for s in card.replicas]])
        return actions + self._pump(models, now)

    def _start_next(self, call_id: str, state: ReplicaState, now: float) -> Assign:
        call = self.runs.calls[call_id]
        return self._assign(call, state, call.report.reason, now)

    def _replica_gone(self, replica_id: str, reason: str, now: float) -> list[Action]:
        state = self.fleet.remove(replica_id)
        if state is None:
            return []
        for call_id, number in state.running:
            call = self.runs.calls.get(call_id)
            if call is not None and (attempt := call.attempt) is not None and attempt.attempt == number:
                attempt.outcome, attempt.error = "lost", reason
                attempt.ended_at = now - call.run.report.submitted
                call.report.state = "planned"  # its task comes back as runnable
        self._fastest.pop(state.replica.model, None)
        return self._rehold(state, now)

    def _replica_draining(self, replica_id: str, draining: bool, now: float) -> list[Action]:
        state = self.fleet.get(replica_id)
        if state is None:
            return []
        self.fleet.drain(state, draining)
        return self._rehold(state, now) if draining else self._serve(state, now)

    def _rehold(self, state: ReplicaState, now: float) -> list[Action]:
        """Decide again for the calls that waited on a replica."""
        for call_id in state.evict():
            call = self.runs.calls[call_id]
            call.queued_on = None
            self._hold(call)
        self.fleet.changed(state)
        return self._serve(state, now)
