"""Everything we touch in `distributed.Scheduler` that carries no public promise, with `dask_tasks` and `dask_books`.

One method for each thing we do; each names the attributes it relies on. `tests/cluster` holds a
contract test for each of them, so that a new release of distributed breaks a test and not a user.
Verified with distributed 2026.8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from distributed.core import Status
from distributed.protocol.pickle import dumps
from distributed.protocol.serialize import Serialized
from distributed.scheduler import TaskState
from distributed.worker import Worker

from dask_fmware.streams import keep_no_messages, send_promptly
from dask_fmware_scheduler.dask_tasks import TaskInternals

__all__ = ["SchedulerInternals"]


class SchedulerInternals(TaskInternals):
    """A scheduler, seen through the internals that routing needs."""

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

    # -- streams: Scheduler.stream_comms, client_comms ----------------------------------------------

    def tune(self, *, worker: str | None = None, client: str | None = None, interval_s: float | None) -> None:
        """Have the stream to a worker or client remember nothing, and write promptly if an interval is given."""
        stream = self.scheduler.stream_comms.get(worker) if worker else self.scheduler.client_comms.get(client)
        if stream is None:
            return
        keep_no_messages(stream)
        if interval_s is not None:
            send_promptly(stream, interval_s)

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


async def _remove_from(dask_worker: Worker, name: str) -> None:
    """Remove a plugin from a worker that has it; run there."""
    if name in dask_worker.plugins:
        await dask_worker.plugin_remove(name=name)
