"""A small shell: it obeys the machine as the Dask plugin does, and holds it to its contract.

It stands for Dask (which tasks are runnable, done or forgotten), beside `workers.Workers` (which attempts are on which
engine), each with books of its own, so that the machine's books can be checked against them.
"""

from __future__ import annotations

import random
from collections import deque
from itertools import product
from typing import Any

from dask_fmware.errors import DeadlineRejectedError
from dask_fmware.model.plan import RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.observe import History
from dask_fmware.policy import create_policy
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    Branched,
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Event,
    Fail,
    FirstToken,
    Hold,
    Machine,
    ModelLimits,
    Move,
    Refuse,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
    Skip,
    Tick,
)
from dask_fmware.runtime.contract import Contract
from dask_fmware.runtime.replicas.slots import Stay
from tests.runtime.books import OVER, Submitted, Task
from tests.runtime.laws import check, check_ended, check_forgotten, check_history, check_no_replica
from tests.runtime.workers import Workers


def told(action: Action) -> tuple[object, ...]:
    """An action as something that compares equal: errors by type and message."""
    if isinstance(action, Fail | Refuse):
        subject = action.call_id if isinstance(action, Fail) else action.run_id
        return type(action), subject, type(action.error), str(action.error)
    return type(action), action


class Shell:
    """Dask, the workers and the client around one machine."""

    MODELS = {"small": ModelLimits(1000, 4), "large": ModelLimits(1000, 4)}  # noqa: RUF012
    MAX_ATTEMPTS = 3

    def __init__(self, policy: str, seed: int = 0) -> None:
        self.policy, self.seed = policy, seed
        self.machine = self.new_machine()
        self.history = History(self.machine)
        self.machine.observers.append(self.history)
        self.contract = Contract(self.MAX_ATTEMPTS, report=self.machine.report, wake_at=lambda: self.machine.wake_at)
        self.machine.observers.append(self.contract)
        self.now = 0.0
        self.log: list[tuple[Event, float, list[tuple[object, ...]]]] = []
        self.runs: dict[str, Submitted] = {}
        self.tasks: dict[str, Task] = {}  # by key
        self.workers = Workers()
        self.moved: list[tuple[str, str, int]] = []  # attempts whose workers were told to give them up
        self._due: deque[Event] = deque()
        self._answers: deque[Event] = deque()  # to actions that could not be performed

    def new_machine(self) -> Machine:
        draw = random.Random(self.seed).random
        machine = Machine(
            create_policy(self.policy, draw),
            models=self.MODELS,
            max_attempts=self.MAX_ATTEMPTS,
            max_held=60,
            keep_runs=3,
            hedge_budget=1.0,
            unhedged=("large",),
        )
        for kind in product(("small", "large"), ("cpu",), ("rag",), "abcdm"):  # what it has learnt of ends
            stay = Stay(1.0, kind=kind)
            stay.began_at = 0.0
            for _ in range(5):
                machine.fleet.ahead.ended(stay, latency_s=1.0, waited_s=0.0, now=2.0)
        return machine

    # -- what happens ----------------------------------------------------------------------------

    def send(self, event: Event) -> None:
        """Tell the machine and do what it says, with all that follows at once."""
        self._due.append(event)
        self.flush()

    def flush(self) -> None:
        """Deliver what is due, in order."""
        while self._due:
            self._deliver(self._due.popleft())
            check(self)
        check_history(self)

    def _deliver(self, event: Event) -> None:
        self.now += 0.125
        actions = self.machine.handle(event, self.now)
        self.log.append((event, self.now, [told(a) for a in actions]))
        for action in actions:
            assert action.reason, f"{action} has no reason"
            self.perform(action)
        while self._answers:
            self._deliver(self._answers.popleft())

    def perform(self, action: Action) -> None:
        match action:
            case Assign() if action.call_id not in self.tasks:  # let go of, which the machine is about to hear
                self._answers.append(AttemptEnded(action.call_id, action.attempt, "undelivered"))
            case Assign() if not self.workers.takes_tasks(action.replica_id):
                self._cannot_assign(action)
            case Assign():
                task = self.tasks[action.call_id]
                assert task.state == "held", f"{action} of a call that is {task.state}"
                self.workers.take(action, task.node.model, self.now)
                task.state, task.on = "running", (action.replica_id, action.attempt)
                task.tries += 1
                assert task.tries <= self.MAX_ATTEMPTS
            case Move():
                task = self.tasks[action.call_id]
                assert task.on == (action.replica_id, action.attempt), f"{action} of an attempt that does not run"
                assert task.tries < self.MAX_ATTEMPTS - 1
                assert task.node.model != "large"
                self.moved.append((action.replica_id, action.call_id, action.attempt))
            case Hold():
                assert self.tasks[action.call_id].state == "held"
            case Skip():
                assert self.tasks[action.call_id].state == "held"
                assert not self.wanted_by_guards(self.tasks[action.call_id])
                self.done(self.tasks[action.call_id])
            case Fail():
                assert self.tasks[action.call_id].state == "held"
                is_late = isinstance(action.error, DeadlineRejectedError)
                self.erred(self.tasks[action.call_id], action.reason, "rejected" if is_late else "failed")
            case Refuse() if action.run_id not in self.runs:
                assert "came for run" in action.reason
            case Refuse():
                run = self.runs[action.run_id]
                assert not run.refused
                run.refused = True
                for task in run.tasks.values():
                    task.state = "erred"
                self._end(run, "failed", action.reason)

    def _cannot_assign(self, action: Assign) -> None:
        """Tell the machine, once all of its actions are performed, that a replica takes no tasks."""
        if self.workers.silent.get(action.replica_id) == "paused":
            self._answers.append(ReplicaDraining(action.replica_id))
            self.workers.drain(action.replica_id, True)
        else:
            self._answers.append(ReplicaGone(action.replica_id))
            self._forget(action.replica_id)
        self._answers.append(AttemptEnded(action.call_id, action.attempt, "undelivered"))
        self._answers.append(CallRunnable(action.call_id))

    def _forget(self, replica_id: str) -> None:
        """A worker is gone: Dask takes its tasks back."""
        for task in self._lost(replica_id):
            self.runnable(task)
        self.workers.forget(replica_id)

    def _end(self, run: Submitted, state: str, reason: str = "") -> None:
        if run.root:
            self._due.append(RunEnded(run.plan.run_id, state, reason))  # type: ignore[arg-type]

    def wanted_by_guards(self, task: Task) -> bool:
        """Whether all switches took the branches that a task is on."""
        run = self.runs[task.plan_id]
        taken = {**dict(run.plan.decided), **{switch: branch for switch, branch, _ in run.decides.values()}}
        return all(taken[guard.switch] == guard.branch for guard in task.node.guards)

    # -- Dask ------------------------------------------------------------------------------------

    def submit(self, plan: RunPlan, decides: dict[str, tuple[str, int | None, bool]]) -> None:
        run = self.runs[plan.run_id] = Submitted(plan, decides)
        for node in plan.nodes:
            run.tasks[node.name] = self.tasks[node.key] = Task(node, plan.run_id)
        self.send(RunSubmitted(plan))
        self.advance(run)
        self.flush()

    def advance(self, run: Submitted) -> None:
        """Start all tasks whose inputs are there; plain code takes no time."""
        for node in run.plan.nodes:
            task = run.tasks[node.name]
            if task.state == "waiting" and all(run.tasks[name].state == "done" for name in node.after):
                if node.model is None:
                    self.done(task)
                else:
                    self.runnable(task)

    def runnable(self, task: Task) -> None:
        task.state, task.on = "held", None
        self._due.append(CallRunnable(task.node.key))

    def done(self, task: Task) -> None:
        run = self.runs[task.plan_id]
        task.state, task.on, task.tries = "done", None, 0
        if (decision := run.decides.get(task.node.name)) is not None and decision[2]:
            self._due.append(Branched(run.plan.run_id, decision[0], decision[1]))
        self.advance(run)
        if all(t.state == "done" for t in run.tasks.values()):
            self._end(run, "finished")

    def erred(self, task: Task, reason: str, state: str = "failed") -> None:
        task.state, task.on = "erred", None
        self._end(self.runs[task.plan_id], state, reason)

    def retry(self, run: Submitted) -> None:
        """The client has a run that failed tried again: what erred begins anew when its inputs are there.

        One that was refused is judged first, and nothing begins where it is refused again.
        """
        was_refused, run.ended, run.refused = run.refused, None, False
        self._due.append(RunRetried(run.plan.run_id))
        if was_refused:
            self.flush()
        if run.refused:
            return
        for task in run.tasks.values():
            if task.state == "erred":
                task.state, task.tries, task.spared = "waiting", 0, False
                if task.node.model is not None:
                    self._due.append(CallRetried(task.node.key))
        self.advance(run)
        self.flush()

    def withdraw(self, task: Task) -> None:
        task.state, task.on = "waiting", None
        self.send(CallWithdrawn(task.node.key))

    def lose_result(self, task: Task, *, withdrawn: bool) -> None:
        if withdrawn:
            self.send(CallWithdrawn(task.node.key))
        self.runnable(task)
        self.flush()

    def cancel(self, run: Submitted, *, calls_first: bool) -> None:
        """The client lets go: attempts that run are aborted by their workers later."""
        family = [r for r in self.runs.values() if r is run or self.root_of(r) is run]
        for member in family:
            for task in member.tasks.values():
                if task.state not in OVER:
                    task.state, task.on = "erred", None
                    if calls_first and task.node.model is not None:
                        self._due.append(CallDropped(task.node.key))
        if calls_first:
            self._end(run, "cancelled", "the client let go of it")
        for member in family:
            self._due.append(RunDropped(member.plan.run_id))
            for task in member.tasks.values():
                del self.tasks[task.node.key]
            del self.runs[member.plan.run_id]
        self.flush()

    def root_of(self, run: Submitted) -> Submitted:
        while run.plan.part_of is not None:
            run = self.runs[run.plan.part_of]
        return run

    # -- workers ---------------------------------------------------------------------------------

    def ready(self, replica: Replica) -> None:
        """A replica announces itself, for the first time or after its engine started again."""
        lost = self._lost(replica.replica_id)
        self.workers.host(replica)
        self._due.append(ReplicaReady(replica))
        for task in lost:
            self.runnable(task)
        self.flush()

    def gone(self, replica_id: str) -> None:
        self._due.append(ReplicaGone(replica_id))
        self._forget(replica_id)
        self.flush()

    def _lost(self, replica_id: str) -> list[Task]:
        """The tasks of a replica whose attempts are lost; those that had no slot have not had a try by it."""
        lost = [t for t in self.tasks.values() if t.on is not None and t.on[0] == replica_id]
        for task in lost:
            if not task.spared and self.workers.is_ahead(replica_id, task.node.key, task.on[1]):  # type: ignore[index]
                task.spared, task.tries = True, task.tries - 1
        return lost

    def drain(self, replica_id: str, draining: bool) -> None:
        self.workers.drain(replica_id, draining)
        self.send(ReplicaDraining(replica_id, draining))

    def current(self, replica_id: str, call_id: str, attempt: int) -> Task | None:
        """The task that an attempt runs for, unless it was abandoned."""
        task = self.tasks.get(call_id)
        return task if task is not None and task.on == (replica_id, attempt) else None

    def end(self, replica_id: str, call_id: str, attempt: int, outcome: str, shut_s: float = 0.0) -> None:
        """The engine is done with an attempt, and may be shut for a while: the message comes first, then the task."""
        is_ahead = self.workers.is_ahead(replica_id, call_id, attempt)
        self.workers.let_go(replica_id, call_id, attempt)
        task = self.current(replica_id, call_id, attempt)
        if task is None:
            outcome = "aborted"
        elif is_ahead:
            outcome, task.tries = "undelivered", task.tries - 1
        elif not self.wanted_by_guards(task):
            outcome = "skipped"
        if task is not None:
            task.state, task.on = "ending", None  # the task's own end is the next message
        told: dict[str, Any] = {"output_tokens": 5 if outcome == "finished" else 0, "error": "it broke"}
        if shut_s and outcome == "retry":  # from when the message is delivered
            told |= {"is_sound": True, "shut_s": shut_s}
            if task is not None:
                task.tries -= 1  # no failure
            self.workers.shut_until(replica_id, self.now + 0.125 + shut_s)
        self.send(AttemptEnded(call_id, attempt, outcome, **told))  # type: ignore[arg-type]
        if task is None or self.tasks.get(call_id) is not task:
            return
        if outcome in ("finished", "skipped"):
            self.done(task)
        elif outcome == "failed":
            self.erred(task, "it broke")
        else:
            self.runnable(task)
        self.flush()

    # -- the end ---------------------------------------------------------------------------------

    def finish(self) -> None:
        """Deliver what is under way, serve all work, let go of everything; nothing may stay behind."""
        for replica_id in [r for r, how in self.workers.silent.items() if how == "dead"]:
            self.gone(replica_id)
        for replica_id in sorted(self.workers.draining | self.workers.silent.keys()):
            self.drain(replica_id, False)
        for task in list(self.tasks.values()):
            run = self.runs[task.plan_id]
            ready = all(run.tasks[name].state == "done" for name in task.node.after)
            if task.state == "waiting" and task.node.model is not None and ready:
                self.runnable(task)
        self.flush()
        unserved = {t.node.model for t in self.tasks.values() if t.node.model and t.state not in OVER}
        for number, model in enumerate(sorted(unserved - {r.model for r in self.workers.replicas.values()})):
            self.ready(self._spare(f"spare{number}", model))
        while (attempts := self.workers.attempts()) or self.machine.wake_at is not None:
            if not attempts:  # what is left waits for a time and not for an event
                self.now = max(self.now, self.machine.wake_at or 0.0)
                self.send(Tick())
                continue
            replica_id, call_id, attempt = attempts[0]
            self.send(FirstToken(call_id, attempt, 0.1))
            self.end(replica_id, call_id, attempt, "finished")
        check_ended(self)
        for run in [r for r in self.runs.values() if r.root]:
            self.cancel(run, calls_first=False)
        check_forgotten(self)
        for replica_id in list(self.workers.replicas):
            self.gone(replica_id)
        check_no_replica(self)

    @staticmethod
    def _spare(name: str, model: str) -> Replica:
        from tests.runtime.builders import replica

        return replica(name, model, slots=2)

    def replay(self) -> None:
        """Equal events and an equal seed give equal actions."""
        machine = self.new_machine()
        for event, now, actions in self.log:
            assert [told(a) for a in machine.handle(event, now)] == actions
