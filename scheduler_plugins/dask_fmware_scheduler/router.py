"""The replica router: a scheduler plugin that turns what Dask and the workers report into events for the
runtime machine (`run_tasks`, `services`). What the machine says is done in `performing`. It decides nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from distributed import Scheduler, SchedulerPlugin

from dask_fmware.errors import NotInstalledError
from dask_fmware.model.messages import (
    PROTOCOL_VERSION,
    AttemptEnded,
    Branched,
    Carried,
    FirstToken,
    GiveBack,
    Overdue,
    RunsAsked,
)
from dask_fmware.model.replica import MODEL_LABEL, Replica, read_label
from dask_fmware.policy import create_policy
from dask_fmware.runtime import (
    Event,
    Machine,
    ModelLimits,
    ReplicaDraining,
)
from dask_fmware.spec.deployment import Deployment
from dask_fmware_scheduler.answers import AnswerBoard
from dask_fmware_scheduler.carrier import Carrier
from dask_fmware_scheduler.choices import Choices
from dask_fmware_scheduler.clock import Clock
from dask_fmware_scheduler.dask_books import forget_finished_work
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from dask_fmware_scheduler.guard import Guard, guarded
from dask_fmware_scheduler.installed import ROUTER
from dask_fmware_scheduler.performing import Performer
from dask_fmware_scheduler.reconnections import Reconnections
from dask_fmware_scheduler.results import ResultMover
from dask_fmware_scheduler.retries import Retries
from dask_fmware_scheduler.run_tasks import RunTasks
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.leave import Leave
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from dask_fmware_scheduler.services.registry import SERVICES, Service

__all__ = ["ReplicaRouter"]

TIDY = 200  # submitted runs after which Dask's books of finished work are shortened
S = TypeVar("S", bound=Service)


class ReplicaRouter(SchedulerPlugin):  # type: ignore[misc]
    """Routes model calls of workflows to replicas.

    Parameters
    ----------
    deployment
        Models, and the routing policy.
    stream_interval_s
        Pause between two messages to a worker or client, or None for Dask's own (5 and 2 ms).
    """

    name = ROUTER
    idempotent = True

    def __init__(self, deployment: Deployment, *, stream_interval_s: float | None = None) -> None:
        self.deployment = deployment
        self.stream_interval_s = stream_interval_s
        self.guard = Guard()

    @property
    def failures(self) -> Counter[str]:
        """How often hooks and handlers failed, by name."""
        return self.guard.failures

    async def start(self, scheduler: Scheduler) -> None:
        """Begin to route; workers that are there already are asked who they are."""
        router = self.deployment.router
        self.dask, self.clock = SchedulerInternals(scheduler), Clock()
        self.machine = Machine(
            create_policy(router.policy, random.Random(router.seed).random),
            models={
                name: ModelLimits(model.context_tokens, model.longest_token_bytes, model.embeds)
                for name, model in self.deployment.models.items()
            },
            max_attempts=router.max_attempts,
            max_held=router.max_held,
            keep_runs=router.keep_reports,
            stall_s=router.stall_s,
            hedge_budget=router.hedge_budget,
            unhedged=[name for name, model in self.deployment.models.items() if not model.hedge],
            tenants={name: tenant.weight for name, tenant in self.deployment.tenants.items()},
        )
        self.machine.observers.failed = self.guard.observer_failed
        self.answers = AnswerBoard(self.machine)
        self.performer = Performer(self.machine, self.dask, self.guard, self._assigned, self.clock)
        self.placement = self.performer.placement
        self.placement.keep_held()
        self.carrier = Carrier(self.dask)
        self.choices = Choices(self.machine, self.dask)
        self.results = ResultMover(self.dask, lambda: self.placement.light)
        self.run_tasks = RunTasks(
            self.machine, self.performer, self.dask, self.carrier, self.results, self.answers, self.clock
        )
        self._untidy = 0  # runs that were submitted since Dask's books were shortened
        self._closed = False
        self.retries, self.reconnections = Retries(self.dask), Reconnections(self.dask)
        self.services = tuple(make(self) for make in SERVICES)
        self._listen(
            {message.op: partial(self._told, message) for message in (FirstToken, AttemptEnded, Branched, Overdue)}
        )
        self._listen({Carried.op: self._carried, RunsAsked.op: self._runs_asked})
        for service in self.services:
            self._listen(service.messages())
            service.start()
        self._served = self._handlers()
        self.dask.serve(self._served)
        for client in list(scheduler.clients):
            self._tune(client=client)
        for worker in list(scheduler.workers):
            self.add_worker(scheduler, worker)

    def _handlers(self) -> dict[str, Callable[..., Any]]:
        handlers: dict[str, Callable[..., Any]] = {
            "fmware_answer": self.answers.find,
            "fmware_greet": self.greeted,
            "fmware_knows": self.knows,
        }
        for service in self.services:
            handlers.update(service.rpcs())
        return handlers

    def _listen(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Take messages of workers and clients; one that cannot be understood must not cost them their stream."""
        self.dask.listen({op: self.guard.around(op, handler) for op, handler in handlers.items()})

    def service(self, kind: type[S]) -> S:
        """Return the service of a kind."""
        return next(service for service in self.services if isinstance(service, kind))

    def greeted(self, client: str) -> int:
        """Take note that a client takes its results along with the news of them; return our version (RPC)."""
        self.carrier.asked(client)
        return PROTOCOL_VERSION

    def knows(self, call_id: str) -> bool:
        """Whether a call is of a run that this router has taken in (RPC)."""
        return call_id in self.run_tasks.keys

    async def close(self) -> None:
        """Stop routing; the streams of workers stay served so that none of them breaks."""
        if self._closed:
            return
        self._closed = True
        self.performer.stop()
        self.answers.close()
        for service in reversed(self.services):
            service.close()
        self.results.close()
        self.carrier.close()
        self.placement.close()
        self.guard.close()
        self.dask.stop_serving(self._served)
        self.retries.close()
        self.reconnections.close()

    async def uninstall(self) -> None:
        """Fail what is held, since nobody will place it any more, and stop routing."""
        self.performer.stop()
        error = NotInstalledError("the dask-fmware runtime was uninstalled while this run was under way")
        self.placement.fail_unrunnable(list(self.run_tasks.keys), error)
        for key in self.run_tasks.keys:
            self.dask.pardon_no_more(key)
        await self.close()

    # -- workers and clients ---------------------------------------------------------------------

    @guarded
    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Take in a new worker: light unless it is labelled with a model."""
        self._tune(worker=worker)
        if read_label(self.dask.resources(worker), MODEL_LABEL) is None:
            self.placement.add_light(worker)
        self.guard.later(self.service(Arrivals).greet(worker))

    @guarded
    def remove_worker(self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any) -> None:
        """Forget a worker. Dask has moved its tasks by now."""
        self.placement.remove_light(worker)
        self.carrier.worker_left(worker)
        self.service(Arrivals).left(worker)
        self.replica_gone(worker)

    def replica_gone(self, worker: str, reason: str = "its worker is gone") -> None:
        """Tell the machine that a replica is gone."""
        self.performer.replica_gone(worker, reason)

    @guarded
    def log_event(self, topic: str, msg: Any) -> None:
        """Follow workers that are paused, resumed or being retired; the log is where Dask says so."""
        if self.dask.is_status_change(msg):  # told before Dask has done it
            asyncio.get_running_loop().call_soon(self.look_at, topic)

    @guarded
    def look_at(self, worker: str) -> None:
        """Offer a replica that takes tasks and is not on leave, and no other; place plain code on a light worker."""
        state, takes_tasks = self.machine.fleet.get(worker), self.dask.takes_tasks(worker)
        if state is not None and state.standing.is_draining is (is_offered := self.is_offered(state.replica)):
            self.performer.tell(ReplicaDraining(worker, not is_offered))
        if state is not None and not takes_tasks:  # what it has not begun by now would wait for as long as it is paused
            self.dask.send(worker, GiveBack().to_wire())
        elif takes_tasks and worker in self.placement.light:
            self.placement.add_light(worker)

    def is_offered(self, replica: Replica) -> bool:
        """Whether calls may be given to a replica that serves: its worker takes tasks, and it is not on leave."""
        return self.dask.takes_tasks(replica.replica_id) and not self.service(Leave).has(replica)

    @guarded
    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """Take in a client; its stream exists only after this hook."""
        asyncio.get_running_loop().call_soon(lambda: self._tune(client=client))

    @guarded
    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Forget a client."""
        self.carrier.client_left(client)

    def _tune(self, **whom: str) -> None:
        self.dask.tune(**whom, interval_s=self.stream_interval_s)

    # -- graphs and transitions ------------------------------------------------------------------

    @guarded
    def update_graph(self, scheduler: Scheduler, *, tasks: list[Any], client: str, **kwargs: Any) -> None:
        """Find the runs in a submitted graph."""
        self._untidy += self.run_tasks.submitted(tasks, client)
        if self._untidy >= TIDY:
            self._untidy = 0
            forget_finished_work(scheduler)

    @guarded
    def transition(self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any) -> None:
        """Follow the tasks of runs. Called for every transition of every task on the cluster: be quick."""
        if key in self.run_tasks.keys and start != finish:
            self.run_tasks.moved(key, start, finish, kwargs.get("worker"))

    # -- the machine -----------------------------------------------------------------------------

    def _told(
        self, message: type[FirstToken | AttemptEnded | Branched | Overdue], /, worker: str, **fields: Any
    ) -> None:
        told = message.from_wire(fields)
        self.performer.tell(self.choices.settled(told) if isinstance(told, Branched) else told)

    def _runs_asked(self, /, client: str, **fields: Any) -> None:
        self.dask.create_tasks(RunsAsked.from_wire(fields), client)

    def _carried(self, /, worker: str, **fields: Any) -> None:
        message = Carried.from_wire(fields)
        if message.key in self.run_tasks.keys:
            self.carrier.take(message, worker)

    @guarded
    def take(self, event: Event) -> None:
        """Give the machine an event that a service has taken in."""
        self.performer.tell(event)

    def _assigned(self, call_id: str) -> None:
        self.run_tasks.assigned(call_id)

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[Any]) -> list[Any]:
        """Let other scalers (Dask's own, Kubernetes) see replicas only if drained to be stopped; these first."""
        going = self.service(ProvisioningService).going()
        if going is not None:
            return [worker for worker in workers if worker.address in going]
        return [w for w in workers if read_label(self.dask.resources(w.address), MODEL_LABEL) is None]
