"""What we touch in tasks of `distributed.Scheduler` that carries no public promise: see `dask_internals`."""

from __future__ import annotations

from collections.abc import Iterable

from distributed.core import error_message
from distributed.metrics import monotonic, time
from distributed.protocol.pickle import dumps, loads
from distributed.scheduler import Scheduler, TaskState
from distributed.spans import SpanMetadata

from dask_fmware.compile.draft import PlanDraft
from dask_fmware.compile.steps import Told
from dask_fmware.model.messages import RunsAsked
from dask_fmware.model.plan import RunPlan

__all__ = ["NOWHERE", "TaskInternals"]

NOWHERE = "tcp://fmware-hold.invalid:1"  # a worker that never exists: a task restricted to it stays in no-worker
PARDONED = 1000  # deaths of workers that a task of a run may see beyond what Dask allows all tasks

_NOWHERE = {NOWHERE}  # one set for all: Dask replaces the restrictions of a task, it never changes them
_PLACES = frozenset({"workers", "restrictions", "resources", "allow_other_workers", "loose_restrictions"})


class TaskInternals:
    """The tasks of a scheduler, seen through the internals that routing needs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    # -- graphs: Scheduler._create_taskstate_from_graph, report ----------------------------------

    def create_tasks(self, asked: RunsAsked, client: str) -> None:
        """Take in tasks, as ``Scheduler.update_graph`` does, which has another thread open them.

        They wait for nothing that is elsewhere. What raises here is the error of all of them, and raised.
        """
        began = time()
        try:
            tasks, annotations = loads(asked.tasks)
            self.scheduler._create_taskstate_from_graph(
                start=began,
                dsk=tasks,
                keys=set(asked.outputs),
                ordered={key: number for number, key in enumerate(tasks)},
                client=client,
                annotations_by_type={},
                global_annotations=annotations,
                stimulus_id=f"fmware-runs-{began}",
                submitting_task=None,
                span_metadata=SpanMetadata(collections=[{"type": "low-level-graph"}]),
            )
        except Exception as error:
            said = error_message(error)
            for key in asked.outputs:
                message = {"op": "task-erred", "key": key} | {name: said[name] for name in ("exception", "traceback")}
                self.scheduler.report(message, client=client)
            raise

    # -- tasks: Scheduler.tasks, TaskState.{run_spec, state, annotations, worker_, host_, resource_restrictions, ...} -

    def task(self, key: str) -> TaskState | None:
        """Return a task by key."""
        return self.scheduler.tasks.get(key)

    def take_plan(self, key: str) -> RunPlan | None:
        """Take the plan of a run out of the task that carries it, so that it does not travel on."""
        told = self._told(key)
        if not told or not isinstance(told.get("plan"), PlanDraft):  # tasks of others may have one of theirs
            return None
        return told.pop("plan").plan()

    def take_branch(self, key: str, switch: str, branch: int | None) -> None:
        """Have a task of a run, when it is sent, go by a branch whatever the value that decides is (see `Told`)."""
        if (told := self._told(key)) is not None:
            told["taken"] = {**told.get("taken", {}), switch: branch}

    def leave_result(self, key: str) -> None:
        """Have the result of a task stay where it is made, unless another task needs it."""
        if (told := self._told(key)) is not None and not self.scheduler.tasks[key].dependents:
            told["stays"] = True

    def _told(self, key: str) -> Told | None:
        """Return what a task is called with by name; what is changed in it goes to the worker with the task."""
        told: Told | None = getattr(getattr(self.scheduler.tasks.get(key), "run_spec", None), "kwargs", None)
        return told

    def disregard_places(self, key: str) -> None:
        """Forget where the submitter wants a task to run (TaskState.annotations)."""
        task = self.scheduler.tasks.get(key)
        if task is not None and task.annotations and not _PLACES.isdisjoint(task.annotations):
            task.annotations = {name: value for name, value in task.annotations.items() if name not in _PLACES}

    def has_place(self, task: TaskState) -> bool:
        """Whether the submitter said where a task is to run."""
        return bool(task.annotations) and not _PLACES.isdisjoint(task.annotations)

    def runnable_dependents(self, task: TaskState) -> list[TaskState]:
        """Tasks that wait for nothing any more, as seen when `task` has just come into memory."""
        return [d for d in task.dependents if d.state == "waiting" and not d.waiting_on]

    def hold(self, task: TaskState) -> None:
        """Let a task park in ``no-worker`` when it is next transitioned."""
        self._restrict(task, _NOWHERE)

    def is_held(self, task: TaskState) -> bool:
        """Whether a task is kept from running."""
        return bool(task.worker_restrictions == _NOWHERE)

    def pin(self, task: TaskState, workers: set[str]) -> None:
        """Let a task run only on these workers."""
        self._restrict(task, workers)

    @staticmethod
    def _restrict(task: TaskState, workers: set[str]) -> None:
        """Dask adds the workers of a host that a task is restricted to, and leaves out those without a resource."""
        task.worker_restrictions = workers
        task.host_restrictions = task.resource_restrictions = None
        task.loose_restrictions = False

    def loosen(self, task: TaskState) -> None:
        """Let a task run anywhere."""
        task.worker_restrictions = None

    def release_held(self, keys: Iterable[str], stimulus_id: str) -> None:
        """Send held tasks to the workers that they were pinned to. Never call it inside a transition."""
        ready = {key: "processing" for key in keys if self.is_unrunnable(key)}
        if ready:
            self.scheduler.transitions(ready, stimulus_id)

    def fail_held(self, key: str, error: Exception, stimulus_id: str) -> None:
        """End a held task with an error. Never call it inside a transition."""
        if self.is_unrunnable(key):
            recommendations = self.scheduler.transition(
                key,
                "erred",
                exception=dumps(error),
                exception_text=f"{type(error).__name__}: {error}",
                traceback_text="",
                cause=key,
                stimulus_id=stimulus_id,
            )
            self.scheduler.transitions(recommendations, stimulus_id)

    def is_unrunnable(self, key: str) -> bool:
        """Whether a task is in ``no-worker``, which Dask calls unrunnable (Scheduler.unrunnable)."""
        task = self.scheduler.tasks.get(key)
        return task is not None and task.state == "no-worker"

    @property
    def unrunnable_s(self) -> float | None:
        """After which a task in ``no-worker`` fails (Scheduler.no_workers_timeout); None for never."""
        patience_s: float | None = self.scheduler.no_workers_timeout
        return patience_s

    def renew_held(self) -> None:
        """Let the time of held tasks in ``no-worker`` begin anew (Scheduler.unrunnable, sorted by it)."""
        unrunnable = self.scheduler.unrunnable
        for task in [task for task in unrunnable if self.is_held(task)]:
            del unrunnable[task]
            unrunnable[task] = monotonic()

    def pardon(self, key: str) -> None:
        """Do not blame a task for the death of its worker (TaskState.suspicious): the machine counts attempts itself.

        Stock Dask fails every task that was on `allowed-failures` (3) dying workers, innocent ones too. Its bound is
        left as it is for the tasks of others.
        """
        if (task := self.scheduler.tasks.get(key)) is not None:
            task.suspicious = -PARDONED

    def pardon_no_more(self, key: str) -> None:
        """Leave a task to stock Dask, with the deaths that it has seen."""
        if (task := self.scheduler.tasks.get(key)) is not None:
            task.suspicious = self.deaths(task)

    def deaths(self, task: TaskState) -> int:
        """How many workers have died while a task was on them."""
        return int(task.suspicious) + (PARDONED if task.suspicious < 0 else 0)

    def failure(self, key: str) -> tuple[str, str]:
        """The task whose error a task has, maybe its own, and that error in one line."""
        task = self.scheduler.tasks.get(key)
        blamed = task.exception_blame if task is not None and task.exception_blame is not None else task
        text = getattr(blamed, "exception_text", None)
        return getattr(blamed, "key", key), str(text).splitlines()[0] if text else "its task failed"

    # -- results: request_acquire_replicas, request_remove_replicas, TaskState.who_has -----------

    def holders(self, key: str) -> set[str]:
        """Addresses of the workers that hold a result; empty if it is not in memory."""
        task = self.scheduler.tasks.get(key)
        if task is None or task.state != "memory":
            return set()
        return {worker.address for worker in task.who_has or ()}

    def is_used_on(self, key: str, worker: str) -> bool:
        """Whether a dependent runs on a worker; removing its input there would close that worker."""
        task, state = self.scheduler.tasks.get(key), self.scheduler.workers.get(worker)
        return task is None or any(dependent.processing_on is state for dependent in task.dependents)

    def copy_results(self, keys: list[str], to: str, stimulus_id: str) -> None:
        """Ask a worker to fetch results."""
        self.scheduler.request_acquire_replicas(to, keys, stimulus_id=stimulus_id)

    def remove_results(self, keys: list[str], worker: str, stimulus_id: str) -> None:
        """Ask a worker to forget results that others hold."""
        self.scheduler.request_remove_replicas(worker, keys, stimulus_id=stimulus_id)
