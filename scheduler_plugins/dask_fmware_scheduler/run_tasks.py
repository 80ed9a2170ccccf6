"""Follows the tasks of runs: what Dask says of them becomes events for the machine.

A runnable call is held in ``no-worker`` until the machine assigns it, and plain steps are pinned to light workers. What
ends a task is seen here, but not when the engine slot of a call is free: that its worker says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed.scheduler import TaskState

from dask_fmware.errors import AttemptsExhaustedError, FMwareError, VersionMismatchError
from dask_fmware.model.plan import PlannedNode
from dask_fmware.runtime import (
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Machine,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
)
from dask_fmware_scheduler.answers import AnswerBoard
from dask_fmware_scheduler.carrier import Carrier
from dask_fmware_scheduler.clock import Clock
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from dask_fmware_scheduler.performing import Performer
from dask_fmware_scheduler.results import ResultMover

__all__ = ["RunTasks"]

DEATHS = 10  # of workers under one plain task, before the task is blamed for them


class RunTasks:
    """The tasks of runs that Dask knows.

    Parameters
    ----------
    machine
        Knows the runs.
    performer
        Told of events; performs what the machine says.
    dask
        Where the tasks are.
    carrier, results, answers
        Told of results that are made, dropped or final.
    clock
        Of the machine.

    Attributes
    ----------
    keys
        Of the tasks.
    outputs
        Key of each task whose result is that of a run -> run id.
    """

    def __init__(
        self,
        machine: Machine,
        performer: Performer,
        dask: SchedulerInternals,
        carrier: Carrier,
        results: ResultMover,
        answers: AnswerBoard,
        clock: Clock,
    ) -> None:
        self._machine, self._performer, self._dask = machine, performer, dask
        self._carrier, self._results, self._answers = carrier, results, answers
        self._placement, self._clock = performer.placement, clock
        self._nodes: dict[str, tuple[str, PlannedNode]] = {}  # key -> (run id, node)
        self.keys = self._nodes.keys()
        self.outputs: dict[str, str] = {}
        self._was_erred: Any = None  # key of the task that was released last, if it had failed

    def submitted(self, keys: Sequence[str], client: str) -> int:
        """Find the runs among tasks that a client has submitted, and return how many there are."""
        outputs = []
        for key in keys:
            try:
                plan = self._dask.take_plan(key)
            except VersionMismatchError as error:
                self._refuse(key, keys, error)
                continue
            if plan is None:
                continue
            for node in plan.nodes:
                self._nodes[node.key] = (plan.run_id, node)
                self._dask.pardon(node.key)
                if node.model is not None:
                    self._dask.disregard_places(node.key)
            self.outputs[plan.output] = plan.run_id
            outputs.append(plan.output)
            self._performer.tell(RunSubmitted(self._clock.of(plan)))
            self._answers.wake(plan.run_id)
        self._carrier.expect(outputs, client)
        return len(outputs)

    def _refuse(self, output: str, keys: Sequence[str], error: FMwareError) -> None:
        """Fail a run whose plan cannot be read: all that is known of it are the keys of its tasks, which end alike."""
        run_id = output[-32:]
        self._performer.refused[run_id], self.outputs[output] = error, run_id
        for key in keys:
            if isinstance(key, str) and key.endswith(run_id):
                self._nodes[key] = (run_id, PlannedNode(name=key, key=key))

    def moved(self, key: str, start: str, finish: str, worker: str | None) -> None:
        """Dask has moved a task of a run to another state; `worker` is who ran it, if it was run."""
        run_id, node = self._nodes[key]
        task = self._dask.task(key)
        if task is None:
            return
        match finish:
            case "waiting":
                if key == self._was_erred:  # else it is forgotten next
                    self._retried(key, run_id, node)
                if not task.waiting_on:
                    self._runnable(task, run_id, node)
            case "processing":
                self._placement.left(key)
                self._carrier.send_ahead(task)
            case "no-worker":
                self._placement.unrunnable(task)
            case "memory":
                for dependent in self._dask.runnable_dependents(task):
                    if (other := self._nodes.get(dependent.key)) is not None:
                        self._runnable(dependent, *other)
                if key in self.outputs:
                    self._carrier.send_home(task)
                    self._run_ended(self.outputs[key], "finished")
                if node.model is not None and start == "processing" and worker is not None:
                    self._result_made(key, worker)
            case "erred":
                self._carrier.drop(key)
                self._performer.take_back(key)
                if key in self.outputs:
                    self._run_failed(self.outputs[key], key)
            case "released":
                self._carrier.drop(key)
                self._was_erred = key if start == "erred" else None
                if node.model is not None and start != "memory":
                    self._performer.sync_replica_of(key)
                    self._performer.tell(CallWithdrawn(key))
                self._performer.take_back(key)
            case "forgotten":
                self._forgotten(key, node)

    def _retried(self, key: str, run_id: str, node: PlannedNode) -> None:
        """A user has a task that failed tried again: the first of a run, whatever it is, opens that run."""
        report = self._machine.report(run_id)
        if report is not None and report.run_id == run_id and report.state in ("failed", "rejected", "refused"):
            self._performer.refused.pop(run_id, None)  # it is judged anew
            self._performer.tell(RunRetried(run_id))
        if node.model is not None:
            self._performer.tell(CallRetried(key))

    def _forgotten(self, key: str, node: PlannedNode) -> None:
        del self._nodes[key]
        self._carrier.drop(key)
        if node.model is not None:
            self._performer.tell(CallDropped(key))
        self._performer.take_back(key)
        if (run_id := self.outputs.pop(key, None)) is not None:
            self._performer.refused.pop(run_id, None)
            self._performer.tell(RunDropped(run_id))
            self._answers.wake(run_id)

    def _run_failed(self, run_id: str, key: str) -> None:
        """Say how a run without a result ended, and why; an error of plain code says nothing of where it was raised.

        A task has the name of the last of the functions that were joined in it; notes of the error name the one.
        """
        blamed, text = self._dask.failure(key)
        known, run = self._nodes.get(blamed), self._machine.runs.get(run_id)
        if known is not None and run is not None and run.rejects_at(known[1].name):
            self._run_ended(run_id, "rejected", text)
            return
        if known is not None and known[1].model is None and "node '" not in text:
            text = f"in plain code up to '{known[1].name}': {text}"
        self._run_ended(run_id, "failed", text)

    def _run_ended(self, run_id: str, state: Any, reason: str = "") -> None:
        self._performer.tell(RunEnded(run_id, state, reason))
        self._answers.wake(run_id)

    def _result_made(self, key: str, worker: str) -> None:
        if worker not in self._placement.light:
            self._results.add(key, worker)

    def _runnable(self, task: TaskState, run_id: str, node: PlannedNode) -> None:
        """All inputs of a task are there: hold or place it before Dask does."""
        if self._performer.stopped:
            self._dask.loosen(task)  # wherever it comes, no model host is there to run it, which it says
        elif (error := self._performer.refused.get(run_id)) is not None:
            self._dask.hold(task)
            self._placement.fail_soon(task.key, error)
        elif node.model is None:
            self._place_plain(task, node)
        else:
            self._dask.hold(task)
            self._performer.sync_replica_of(task.key)
            self._performer.tell(CallRunnable(task.key))

    def _place_plain(self, task: TaskState, node: PlannedNode) -> None:
        """Send plain code to light workers or where its submitter wants it, unless it has killed too many of them."""
        deaths = self._dask.deaths(task)
        if deaths < DEATHS:
            self._placement.to_light(task)
            return
        self._dask.hold(task)
        error = AttemptsExhaustedError(
            f"node '{node.name}': {deaths} workers died while they ran it; look for what ends a process, or for memory"
        )
        self._placement.fail_soon(task.key, error)

    def assigned(self, call_id: str) -> None:
        """A call was given to a replica: whoever waits for the answer of its run may read it there."""
        node = self._nodes.get(call_id)
        if node is not None and node[1].answers:
            self._answers.wake(node[0])
