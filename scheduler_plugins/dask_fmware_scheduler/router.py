"""The replica router: a scheduler plugin that turns what Dask and the workers report into events for the
runtime machine. What the machine says is done in `performing`.

It decides nothing. A runnable call is held in ``no-worker``, pinned to the address of the replica that
the machine assigns, and its slot is free when its worker says so: Dask's own transitions do not tell.
Plain steps are pinned to light workers.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from distributed import Scheduler, SchedulerPlugin

from dask_fmware.errors import AttemptsExhaustedError, FMwareError, NotInstalledError, VersionMismatchError
from dask_fmware.model.messages import AttemptEnded, Branched, Carried, FirstToken, GiveBack, Overdue
from dask_fmware.model.plan import PlannedNode
from dask_fmware.model.replica import MODEL_LABEL, Replica, read_label
from dask_fmware.policy import create_policy
from dask_fmware.runtime import (
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Event,
    Machine,
    ModelLimits,
    ReplicaDraining,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
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
from dask_fmware_scheduler.results import ResultMover
from dask_fmware_scheduler.retries import Retries
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.leave import Leave
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from dask_fmware_scheduler.services.registry import SERVICES, Service

__all__ = ["ReplicaRouter"]

TIDY = 200  # submitted runs after which Dask's books of finished work are shortened
DEATHS = 10  # of workers under one plain task, before the task is blamed for them
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
                name: ModelLimits(model.context_tokens, model.longest_token_bytes)
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
        self._nodes: dict[str, tuple[str, PlannedNode]] = {}  # key -> (run id, node)
        self._outputs: dict[str, str] = {}  # key of a result -> run id
        self._submitted = 0  # runs
        self._was_erred: Any = None  # key of the task that was released last, if it had failed
        self._closed = False
        self.retries = Retries(self.dask)
        self.services = tuple(make(self) for make in SERVICES)
        self._listen(
            {message.op: partial(self._told, message) for message in (FirstToken, AttemptEnded, Branched, Overdue)}
            | {Carried.op: self._carried}
        )
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
            "fmware_carry": self.carrier.asked,
            "fmware_knows": self.knows,
        }
        for service in self.services:
            handlers.update(service.rpcs())
        return handlers

    def _listen(self, handlers: Mapping[str, Callable[..., Any]]) -> None:
        """Take messages of workers; one that cannot be understood must not cost a worker its stream."""
        self.dask.listen({op: self.guard.around(op, handler) for op, handler in handlers.items()})

    def service(self, kind: type[S]) -> S:
        """Return the service of a kind."""
        return next(service for service in self.services if isinstance(service, kind))

    def knows(self, call_id: str) -> bool:
        """Whether a call is of a run that this router has taken in (RPC)."""
        return call_id in self._nodes

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

    async def uninstall(self) -> None:
        """Fail what is held, since nobody will place it any more, and stop routing."""
        self.performer.stop()
        error = NotInstalledError("the dask-fmware runtime was uninstalled while this run was under way")
        self.placement.fail_unrunnable(list(self._nodes), error)
        for key in self._nodes:
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

    def _tune(self, *, worker: str | None = None, client: str | None = None) -> None:
        self.dask.keep_no_messages(worker=worker, client=client)
        if self.stream_interval_s is not None:
            self.dask.send_at_once(worker=worker, client=client, interval_s=self.stream_interval_s)

    # -- graphs and transitions ------------------------------------------------------------------

    @guarded
    def update_graph(self, scheduler: Scheduler, *, tasks: list[Any], client: str, **kwargs: Any) -> None:
        """Find the runs in a submitted graph."""
        outputs = []
        for key in tasks:
            try:
                plan = self.dask.take_plan(key)
            except VersionMismatchError as error:
                self._refuse(key, tasks, error)
                continue
            if plan is None:
                continue
            for node in plan.nodes:
                self._nodes[node.key] = (plan.run_id, node)
                self.dask.pardon(node.key)
                if node.model is not None:
                    self.dask.disregard_places(node.key)
            self._outputs[plan.output] = plan.run_id
            outputs.append(plan.output)
            self.performer.tell(RunSubmitted(self.clock.of(plan)))
            self.answers.wake(plan.run_id)
            self._submitted += 1
            if self._submitted % TIDY == 0:
                forget_finished_work(scheduler)
        self.carrier.expect(outputs, client)

    def _refuse(self, output: str, tasks: list[Any], error: FMwareError) -> None:
        """Fail a run whose plan cannot be read: all that is known of it are the keys of its tasks, which end alike."""
        run_id = output[-32:]
        self.performer.refused[run_id], self._outputs[output] = error, run_id
        for key in tasks:
            if isinstance(key, str) and key.endswith(run_id):
                self._nodes[key] = (run_id, PlannedNode(name=key, key=key))

    @guarded
    def transition(self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any) -> None:
        """Follow the tasks of runs. Called for every transition of every task on the cluster: be quick."""
        known = self._nodes.get(key)
        if known is None or start == finish:
            return
        run_id, node = known
        task = self.dask.task(key)
        if task is None:
            return
        match finish:
            case "waiting":
                if key == self._was_erred:  # else it is forgotten next
                    self._retried(key, run_id, node)
                if not task.waiting_on:
                    self._runnable(task, run_id, node)
            case "processing":
                self.placement.left(key)
                self.carrier.send_ahead(task)
            case "no-worker":
                self.placement.unrunnable(task)
            case "memory":
                for dependent in self.dask.runnable_dependents(task):
                    if (other := self._nodes.get(dependent.key)) is not None:
                        self._runnable(dependent, *other)
                if key in self._outputs:
                    self.carrier.send_home(task)
                    self._run_ended(self._outputs[key], "finished")
                if node.model is not None and start == "processing" and (worker := kwargs.get("worker")) is not None:
                    self._result_made(key, worker)
            case "erred":
                self.carrier.drop(key)
                self.performer.take_back(key)
                if key in self._outputs:
                    self._run_failed(self._outputs[key], key)
            case "released":
                self.carrier.drop(key)
                self._was_erred = key if start == "erred" else None
                if node.model is not None and start != "memory":
                    self.performer.sync_replica_of(key)
                    self.performer.tell(CallWithdrawn(key))
                self.performer.take_back(key)
            case "forgotten":
                self._forgotten(key, node)

    def _retried(self, key: str, run_id: str, node: PlannedNode) -> None:
        """A user has a task that failed tried again: the first of a run, whatever it is, opens that run."""
        report = self.machine.report(run_id)
        if report is not None and report.run_id == run_id and report.state in ("failed", "rejected", "refused"):
            self.performer.refused.pop(run_id, None)  # it is judged anew
            self.performer.tell(RunRetried(run_id))
        if node.model is not None:
            self.performer.tell(CallRetried(key))

    def _forgotten(self, key: str, node: PlannedNode) -> None:
        del self._nodes[key]
        self.carrier.drop(key)
        if node.model is not None:
            self.performer.tell(CallDropped(key))
        self.performer.take_back(key)
        if (run_id := self._outputs.pop(key, None)) is not None:
            self.performer.refused.pop(run_id, None)
            self.performer.tell(RunDropped(run_id))
            self.answers.wake(run_id)

    def _run_failed(self, run_id: str, key: str) -> None:
        """Say how a run without a result ended, and why; an error of plain code says nothing of where it was raised.

        A task has the name of the last of the functions that were joined in it; notes of the error name the one.
        """
        blamed, text = self.dask.failure(key)
        known, run = self._nodes.get(blamed), self.machine.runs.get(run_id)
        if known is not None and run is not None and run.rejects_at(known[1].name):
            self._run_ended(run_id, "rejected", text)
            return
        if known is not None and known[1].model is None and "node '" not in text:
            text = f"in plain code up to '{known[1].name}': {text}"
        self._run_ended(run_id, "failed", text)

    def _run_ended(self, run_id: str, state: Any, reason: str = "") -> None:
        self.performer.tell(RunEnded(run_id, state, reason))
        self.answers.wake(run_id)

    def _result_made(self, key: str, worker: str) -> None:
        if worker not in self.placement.light:
            self.results.add(key, worker)

    def _runnable(self, task: Any, run_id: str, node: PlannedNode) -> None:
        """All inputs of a task are there: hold or place it before Dask does."""
        if self.performer.stopped:
            self.dask.loosen(task)  # wherever it comes, no model host is there to run it, which it says
        elif (error := self.performer.refused.get(run_id)) is not None:
            self.dask.hold(task)
            self.placement.fail_soon(task.key, error)
        elif node.model is None:
            self._place_plain(task, node)
        else:
            self.dask.hold(task)
            self.performer.sync_replica_of(task.key)
            self.performer.tell(CallRunnable(task.key))

    def _place_plain(self, task: Any, node: PlannedNode) -> None:
        """Send plain code to light workers or where its submitter wants it, unless it has killed too many of them."""
        deaths = self.dask.deaths(task)
        if deaths < DEATHS:
            self.placement.to_light(task)
            return
        self.dask.hold(task)
        error = AttemptsExhaustedError(
            f"node '{node.name}': {deaths} workers died while they ran it; look for what ends a process, or for memory"
        )
        self.placement.fail_soon(task.key, error)

    # -- the machine -----------------------------------------------------------------------------

    def _told(
        self, message: type[FirstToken | AttemptEnded | Branched | Overdue], /, worker: str, **fields: Any
    ) -> None:
        told = message.from_wire(fields)
        self.performer.tell(self.choices.settled(told) if isinstance(told, Branched) else told)

    def _carried(self, /, worker: str, **fields: Any) -> None:
        message = Carried.from_wire(fields)
        if message.key in self._nodes:
            self.carrier.take(message, worker)

    @guarded
    def take(self, event: Event) -> None:
        """Give the machine an event that a service has taken in."""
        self.performer.tell(event)

    def _assigned(self, key: str) -> None:
        node = self._nodes.get(key)
        if node is not None and node[1].answers:
            self.answers.wake(node[0])

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[Any]) -> list[Any]:
        """Let other scalers (Dask's own, Kubernetes) see replicas only if drained to be stopped; these first."""
        going = self.service(ProvisioningService).going()
        if going is not None:
            return [worker for worker in workers if worker.address in going]
        return [w for w in workers if read_label(self.dask.resources(w.address), MODEL_LABEL) is None]
