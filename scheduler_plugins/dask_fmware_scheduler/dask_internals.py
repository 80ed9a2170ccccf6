"""Everything we touch in `distributed.Scheduler` that carries no public promise, but for the books in `dask_books.py`.

One method for each thing we do; each names the attributes it relies on. `tests/cluster` holds a
contract test for each of them, so that a new release of distributed breaks a test and not a user.
Verified with distributed 2026.8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from distributed.core import Status, error_message
from distributed.metrics import monotonic, time
from distributed.protocol.pickle import dumps, loads
from distributed.protocol.serialize import Serialized
from distributed.scheduler import Scheduler, TaskState
from distributed.spans import SpanMetadata
from distributed.worker import Worker

from dask_fmware.compile.draft import PlanDraft
from dask_fmware.compile.steps import Told
from dask_fmware.model.messages import RunsAsked
from dask_fmware.model.plan import RunPlan

__all__ = ["NOWHERE", "SchedulerInternals"]

NOWHERE = "tcp://fmware-hold.invalid:1"  # a worker that never exists: a task restricted to it stays in no-worker
PARDONED = 1000  # deaths of workers that a task of a run may see beyond what Dask allows all tasks

_NOWHERE = {NOWHERE}  # one set for all: Dask replaces the restrictions of a task, it never changes them
_PLACES = frozenset({"workers", "restrictions", "resources", "allow_other_workers", "loose_restrictions"})


class SchedulerInternals:
    """A scheduler, seen through the internals that routing needs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler

    # -- handlers: Scheduler.handlers, Scheduler.stream_handlers ---------------------------------

    def serve(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Answer RPCs."""
        self.scheduler.handlers.update(handlers)

    def listen(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Take messages from worker streams; an unknown one would close the stream of its worker."""
        self.scheduler.stream_handlers.update(handlers)

    def stop_serving(self, names: Iterable[str]) -> None:
        """Answer these RPCs no more."""
        for name in names:
            self.scheduler.handlers.pop(name, None)

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

    # -- retries: Scheduler.handlers, stimulus_retry, report_on_key, ClientState.wants_what ---------

    def answer_retries(self, answer: Callable[..., tuple[str, ...]] | None) -> None:
        """Have clients that retry futures answered so; None: as stock Dask does."""
        self.scheduler.handlers["retry"] = answer or self.scheduler.stimulus_retry

    def retry(self, keys: Collection[str], client: str | None) -> tuple[str, ...]:
        """Retry futures of a client, and name the tasks among those retried that it holds.

        A client looks each of them up among its futures. Stock Dask also names the tasks that the error came from,
        which nobody holds in a run of several steps: the client raises `KeyError`, though all of them are retried.
        """
        retried, asker = self.scheduler.stimulus_retry(keys=keys, client=client), self.scheduler.clients.get(client)
        return tuple(k for k in retried if asker is None or self.scheduler.tasks.get(k) in asker.wants_what)

    def tell_ends(self, keys: Iterable[str]) -> None:
        """Tell clients once more of tasks that are over."""
        for task in filter(None, map(self.scheduler.tasks.get, keys)):
            self.scheduler.report_on_key(ts=task)

    # -- clients: Scheduler.handlers, add_client, client_comms -------------------------------------

    def answer_registrations(self, answer: Callable[..., Any] | None) -> None:
        """Have clients that connect answered so; None: as stock Dask does."""
        self.scheduler.handlers["register-client"] = answer or self.scheduler.add_client

    async def register(self, comm: Any, client: str, **fields: Any) -> None:
        """Take a client in, and serve its connection until it ends."""
        await self.scheduler.add_client(comm, client, **fields)

    def is_connected(self, client: str) -> bool:
        """Whether there is a connection to a client, or something left of one."""
        return client in self.scheduler.client_comms

    def break_connection(self, client: str) -> None:
        """End the connection to a client, which may have ended already."""
        if (comm := self.scheduler.client_comms.get(client)) is not None:
            comm.abort()

    # -- plugins: Scheduler.plugins, worker_plugins, unregister_worker_plugin, broadcast; Worker.plugins, plugin_remove

    def plugin(self, name: str) -> Any:
        """Return a plugin of the scheduler; None if there is none of that name."""
        return self.scheduler.plugins.get(name)

    def remove_plugin(self, name: str) -> None:
        """Tell a plugin of the scheduler nothing more; one that has gone is none."""
        self.scheduler.plugins.pop(name, None)

    def gives_workers(self, name: str) -> bool:
        """Whether workers that come are given a plugin of that name."""
        return name in self.scheduler.worker_plugins

    async def remove_worker_plugin(self, name: str, *, unregistered: bool) -> None:
        """Remove a plugin from all workers and from what workers that come are given.

        One that came with a preload of its worker, or was added by another plugin, is not registered with the
        scheduler; `unregistered` has every worker asked even so. The RPC for it leaves a traceback in the log of each
        worker without the plugin.
        """
        if name in self.scheduler.worker_plugins:
            await self.scheduler.unregister_worker_plugin(None, name)
        elif unregistered:
            message = {"op": "run", "function": dumps(_remove_from), "kwargs": dumps({"name": name})}
            await self.scheduler.broadcast(msg=message)

    # -- out-of-band functions: Worker.handlers["run"] --------------------------------------------

    async def run(self, worker: str, function: Callable[..., None], **arguments: Any) -> None:
        """Run a function on a worker beside its tasks; it is given the worker as ``dask_worker``.

        A worker answers a question that it does not know with a traceback in its log; this one all of them know.

        Raises
        ------
        OSError
            If the worker cannot be reached.
        RuntimeError
            If the function raised.
        """
        answer = await self.scheduler.rpc(worker).run(function=dumps(function), kwargs=dumps(arguments))
        if answer["status"] != "OK":
            raise RuntimeError(f"{worker}: {function.__name__} failed ({answer.get('exception_text')})")

    # -- results: Scheduler.{handlers, gather, client_comms}; protocol.Serialized; TaskState.{processing_on,
    #    dependencies, who_has, who_wants} -------------------------------------------------------

    def answer_fetches(self, answer: Callable[..., Any] | None) -> None:
        """Have clients that fetch results answered so; None: as stock Dask does."""
        self.scheduler.handlers["gather"] = answer or self.scheduler.gather

    async def fetch(self, keys: Collection[str], serializers: list[str] | None) -> dict[str, Any]:
        """Ask workers for results, as stock Dask answers a client: ``status``, ``data`` or the ``keys`` that failed."""
        answer: dict[str, Any] = await self.scheduler.gather(keys=keys, serializers=serializers)
        return answer

    @staticmethod
    def pickled(value: bytes) -> Serialized:
        """A pickled value for an answer, which its reader is given opened; its header is changed on the way."""
        return Serialized({"serializer": "pickle", "writeable": ()}, [value])

    def is_run_by(self, key: str, worker: str) -> bool:
        """Whether a worker runs a task."""
        task = self.scheduler.tasks.get(key)
        return task is not None and task.processing_on is not None and bool(task.processing_on.address == worker)

    def lacking(self, task: TaskState) -> tuple[str, list[str]]:
        """The worker that a task is on its way to, and what it needs of results that are not there."""
        worker = task.processing_on
        assert worker is not None
        return worker.address, [d.key for d in task.dependencies if worker not in (d.who_has or ())]

    @staticmethod
    def wanted_by(task: TaskState) -> list[str]:
        """Clients that hold a future of a task."""
        return [client.client_key for client in task.who_wants or ()]

    def tell_client(self, client: str, message: dict[str, Any]) -> None:
        """Send a message to a client, ahead of what Dask tells it of the transition under way; none if it has gone."""
        comm = self.scheduler.client_comms.get(client)
        if comm is not None and not comm.closed():
            comm.send(message)

    # -- settings: Scheduler.stream_comms, client_comms; BatchedSend.interval, recent_message_log --

    def send_at_once(self, *, worker: str | None = None, client: str | None = None, interval_s: float) -> None:
        """Lower the pause between two messages to a worker or client (5 and 2 ms in stock Dask)."""
        if (comm := self._comm(worker, client)) is not None:
            comm.interval = interval_s

    def keep_no_messages(self, *, worker: str | None = None, client: str | None = None) -> None:
        """Do not remember what was sent: stock Dask keeps the last 1,000 messages of each stream, prompts included."""
        if (comm := self._comm(worker, client)) is not None:
            comm.recent_message_log = deque(maxlen=0)

    def _comm(self, worker: str | None, client: str | None) -> Any:
        comms = self.scheduler.stream_comms if worker is not None else self.scheduler.client_comms
        return comms.get(worker if worker is not None else client)

    # -- workers: Scheduler.workers, running, rpc, worker_send -----------------------------------

    def workers(self) -> list[str]:
        """Addresses of the registered workers."""
        return list(self.scheduler.workers)

    def resources(self, worker: str) -> dict[str, float]:
        """Declared resources of a worker, which serve as labels."""
        state = self.scheduler.workers.get(worker)
        return dict(state.resources) if state is not None else {}

    def is_known(self, worker: str) -> bool:
        """Whether a worker is registered."""
        return worker in self.scheduler.workers

    def takes_tasks(self, worker: str) -> bool:
        """Whether a worker is registered and running: neither paused nor being retired."""
        state = self.scheduler.workers.get(worker)
        return state is not None and state.status == Status.running and state in self.scheduler.running

    def is_paused(self, worker: str) -> bool:
        """Whether a worker has more memory than Dask lets it have."""
        return self.is_known(worker) and self.scheduler.workers[worker].status == Status.paused

    def send(self, worker: str, message: dict[str, Any]) -> None:
        """Send a stream message to a worker, in order with its tasks."""
        self.scheduler.worker_send(worker, message)

    def log_event(self, topic: str, event: Any) -> None:
        """Tell those who follow a topic (Scheduler.log_event)."""
        self.scheduler.log_event(topic, event)

    @staticmethod
    def is_status_change(event: Any) -> bool:
        """Whether an entry of the event log says that a worker takes tasks again, or no more."""
        return isinstance(event, dict) and event.get("action") == "worker-status-change"

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


async def _remove_from(dask_worker: Worker, name: str) -> None:
    """Remove a plugin from a worker that has it; run there."""
    if name in dask_worker.plugins:
        await dask_worker.plugin_remove(name=name)
