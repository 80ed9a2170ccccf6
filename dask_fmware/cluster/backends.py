"""How workers are started and stopped on one kind of cluster: by worker specs, or by worker groups.

A backend does what it is told and says what it has asked for. Which replicas there should be it does not know.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from inspect import isawaitable
from typing import Any, Protocol

from distributed.deploy.spec import SpecCluster

from dask_fmware.cluster.dask_internals import (
    close_worker,
    count_apart,
    is_ours_to_end,
    is_over,
    spare,
    start_worker,
    worker_labels,
    worker_names,
)
from dask_fmware.cluster.places import free_place, place_of
from dask_fmware.errors import DeploymentError
from dask_fmware.model.replica import ACCELERATOR_LABEL, CARD_LABEL, MODEL_LABEL, label, read_label
from dask_fmware.spec.deployment import Deployment, ReplicaSpec

__all__ = ["Backend", "GroupBackend", "SpecBackend", "WorkerSpec"]

logger = logging.getLogger("dask_fmware.provisioning")

WorkerSpec = Callable[[ReplicaSpec], Mapping[str, Any]]
"""Makes the ``{"cls": ..., "options": ...}`` of the worker that hosts a replica."""

CLOSE_S = 30.0
RETIRE_S = 60.0  # in which the results of a stopped replica have been copied elsewhere


class Backend(Protocol):
    """Starts and stops workers."""

    def requested(self) -> list[dict[str, str]]:
        """Workers asked for by name: name, model, accelerator, and the error of those that could not start."""
        ...

    def pools(self) -> list[tuple[str, str, int]]:
        """Workers asked for by number: model, accelerator, count."""
        ...

    def resize(self, model: str, accelerator: str, count: int) -> None:
        """Hear how many workers there are to be of a kind, at each look; for those asked for by number."""
        ...

    def start(self, model: str, accelerator: str) -> bool:
        """Begin to start a replica, without waiting; False if there is no place for it now."""
        ...

    async def stop(self, name: str, model: str, accelerator: str, worker: str) -> None:
        """Copy what a drained replica holds and end its worker; the address is empty if that never came."""
        ...

    async def close(self) -> None:
        """End what runs in the background."""
        ...


class SpecBackend:
    """Any `SpecCluster`: each replica is an entry of ``worker_spec``, started by itself so that none waits for another.

    Parameters
    ----------
    cluster
        Where.
    deployment
        Models and cards.
    worker_spec
        Makes the spec of a worker.
    start_timeout_s
        For its process or job to be there; its engine may take longer.
    """

    def __init__(
        self, cluster: SpecCluster, deployment: Deployment, worker_spec: WorkerSpec, start_timeout_s: float
    ) -> None:
        self._cluster = cluster
        self._deployment = deployment
        self._worker_spec = worker_spec
        self._timeout_s = start_timeout_s
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}
        self._failures = Counter[str]()  # card -> starts and replicas lost since one was stopped there that served
        for keep in (spare, count_apart):
            keep(cluster, lambda name: place_of(deployment, name) is not None)

    def requested(self) -> list[dict[str, str]]:
        """Replicas among the workers of the cluster; a manager that was restarted finds its own by their names.

        One that closes is among them until it has: so long it has its place. One that is to start is among them at
        once: the next look may be due in the very turn of the loop in which that was begun, and would begin another.
        """
        found = []
        known = *self._starting, *self._cluster.worker_spec, *self._cluster.workers, *self._failed
        for name in dict.fromkeys(known):
            place = self._place(str(name))
            if place is None:
                continue
            error = self._failed.get(name, "")
            if not error and is_over(self._cluster, name):
                error = "its worker has ended"
            found.append({"name": place.name, "model": place.model, "accelerator": place.accelerator, "error": error})
        return found

    def pools(self) -> list[tuple[str, str, int]]:
        """None."""
        return []

    def resize(self, model: str, accelerator: str, count: int) -> None:
        """Nothing: each worker has its name."""

    def start(self, model: str, accelerator: str) -> bool:
        """Begin to start a replica on the best free place."""
        taken = [*map(str, self._cluster.worker_spec), *map(str, self._cluster.workers), *self._starting]
        names = {*taken, *self._failed, *worker_names(self._cluster)}
        replica = free_place(
            self._deployment, model, accelerator, taken, names, others=self._others(), failures=self._failures
        )
        if replica is None:
            return False
        task = asyncio.ensure_future(self._start(replica))
        self._starting[replica.name] = task
        task.add_done_callback(lambda _: self._starting.pop(replica.name, None))
        return True

    def _others(self) -> list[str]:
        """Cards of the replicas that somebody else has started, under names of their own."""
        labels = [dict.fromkeys(of) for name, of in worker_labels(self._cluster) if self._place(name) is None]
        return [card for of in labels if (card := read_label(of, CARD_LABEL)) is not None]

    def _place(self, name: str) -> ReplicaSpec | None:
        return place_of(self._deployment, name)

    def _judge(self, name: str, served: bool) -> None:
        """Remember of a card whether replicas come to serve on it: one that is broken is tried last."""
        if (place := self._place(name)) is None:
            return
        if served:
            self._failures.pop(place.card, None)
        else:
            self._failures[place.card] += 1

    async def _start(self, replica: ReplicaSpec) -> None:
        try:
            spec = self._worker_spec(replica)
            _check_labels(spec, replica)
            await start_worker(self._cluster, replica.name, spec, self._timeout_s)
        except Exception as error:
            text = f"its worker could not start: {type(error).__name__}: {error}".rstrip(": ")
            logger.error("Replica %s: %s", replica.name, text)
            self._failed[replica.name] = text

    async def stop(self, name: str, model: str, accelerator: str, worker: str) -> None:
        """Let Dask retire a replica, then end its worker; one without an address has never served, or is lost."""
        self._judge(name, served=bool(worker))
        if worker:
            tell = not is_ours_to_end(self._cluster, name)
            retired = self._cluster.scheduler_comm.retire_workers(workers=[worker], remove=tell, close_workers=tell)
            await asyncio.wait_for(retired, RETIRE_S)
        self._failed.pop(name, None)
        if (task := self._starting.get(name)) is not None:
            task.cancel()
            await asyncio.wait([task])
        await close_worker(self._cluster, name, CLOSE_S)

    async def close(self) -> None:
        """Give up the starts under way."""
        for task in list(self._starting.values()):
            task.cancel()
        if self._starting:
            await asyncio.wait(list(self._starting.values()))


def _check_labels(spec: Mapping[str, Any], replica: ReplicaSpec) -> None:
    """Refuse a worker that would not know what it hosts: it would come, and never become a replica."""
    wanted, options = label(MODEL_LABEL, replica.model), repr(spec.get("options"))
    if wanted not in options and f"--{MODEL_LABEL}" not in options:  # a resource, or an option of our preload
        raise DeploymentError(
            f"the spec of worker '{replica.name}' gives it no resource {wanted}; give it those of "
            "dask_fmware.cluster.templates.labels(replica)"
        )


class GroupBackend:
    """A cluster with worker groups, as dask-kubernetes has them: one group for each model and accelerator.

    A group is told its size whenever that changes. Its operator has a worker retired and deletes the pod when a group
    gets smaller; which one is chosen through the scheduler, where the router lets it see only replicas that have been
    drained.

    Parameters
    ----------
    cluster
        With ``add_worker_group(name, n_workers, **options)`` and ``scale(n, worker_group=name)``.
    group_options
        Makes the options of a group from a replica that names no card: image, resources, worker_command, env.
    deployment
        Models and cards.
    retry_s
        Pause after a question that was refused.

    Raises
    ------
    DeploymentError
        Two groups would have one name.
    """

    def __init__(
        self,
        cluster: Any,
        deployment: Deployment,
        group_options: Callable[[ReplicaSpec], Mapping[str, Any]],
        retry_s: float = 5.0,
    ) -> None:
        _check_groups(deployment)
        self._cluster = cluster
        self._retry_s = retry_s
        self._deployment = deployment
        self._options = group_options
        self._counts = self._there()
        self._groups = set(self._counts)  # that have been made
        self._told: set[tuple[str, str]] = set()  # groups of which the operator has heard a size from here
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def _there(self) -> dict[tuple[str, str], int]:
        """Workers that an earlier manager has asked for and that are to stay, by the labels with which they came."""
        kinds = [(model, accelerator) for model, spec in self._deployment.models.items() for accelerator in spec.on]
        counts = {}
        for model, accelerator in kinds:
            wanted = {label(MODEL_LABEL, model), label(ACCELERATOR_LABEL, accelerator)}
            if count := sum(wanted <= labels for _, labels in worker_labels(self._cluster)):
                counts[model, accelerator] = count
        return counts

    def requested(self) -> list[dict[str, str]]:
        """None: pods are named by the operator."""
        return []

    def pools(self) -> list[tuple[str, str, int]]:
        """Size of each group."""
        return [(model, accelerator, count) for (model, accelerator), count in self._counts.items()]

    def resize(self, model: str, accelerator: str, count: int) -> None:
        """Tell the operator the size of a group, if it has not heard it."""
        key = model, accelerator
        if self._counts.get(key) != count or key not in self._told:
            self._counts[key] = count
            self._told.add(key)
            if key not in self._asking:
                self._asking[key] = asyncio.ensure_future(self._until_asked(*key))

    def start(self, model: str, accelerator: str) -> bool:
        """Nothing: the group has its size."""
        return True

    async def stop(self, name: str, model: str, accelerator: str, worker: str) -> None:
        """Nothing: the group has its size, and its operator retires the worker."""

    async def close(self) -> None:
        """Give up what is being asked."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)

    async def _until_asked(self, model: str, accelerator: str) -> None:
        """Bring a group to its size; changes meanwhile are taken along, what comes after the last look is told anew."""
        try:
            await self._ask_on(model, accelerator)
        finally:
            del self._asking[model, accelerator]

    async def _ask_on(self, model: str, accelerator: str) -> None:
        group, told = _group(model, accelerator), None
        is_new = (model, accelerator) not in self._groups
        while told != (count := self._counts[model, accelerator]):
            try:
                if is_new:
                    options = self._options(_any_of(self._deployment, model, accelerator))
                    made = self._cluster.add_worker_group(group, n_workers=count, **options)
                else:
                    made = self._cluster.scale(count, worker_group=group)
                if isawaitable(made):
                    await made
            except Exception as error:
                logger.error("Worker group %s could not be scaled to %d, tried again: %s", group, count, error)
                is_new = not is_new  # an earlier manager may have made it, or someone else removed it
                await asyncio.sleep(self._retry_s)
                continue
            self._groups.add((model, accelerator))
            is_new, told = False, count


def _any_of(deployment: Deployment, model: str, accelerator: str) -> ReplicaSpec:
    """Any replica of a group: its pods are made alike and each has a card of its own, so it names none."""
    return deployment.replica(model, accelerator, 0).model_copy(update={"card": "", "cores": None})


def _group(model: str, accelerator: str) -> str:
    """Name of a worker group, with the characters that names of Kubernetes may have."""
    return f"fm-{model}-{accelerator}".lower().replace("_", "-").replace(".", "-")


def _check_groups(deployment: Deployment) -> None:
    named: dict[str, tuple[str, str]] = {}
    for model, spec in deployment.models.items():
        for accelerator in spec.on:
            other = named.setdefault(_group(model, accelerator), (model, accelerator))
            if other != (model, accelerator):
                raise DeploymentError(
                    f"models.{model}.on.{accelerator} and models.{other[0]}.on.{other[1]} would share the worker group "
                    f"'{_group(model, accelerator)}'; rename one of the models or accelerators"
                )
