"""What we touch in clusters of `distributed` that carries no public promise, and nothing else.

Workers are started and stopped one by one here and not by `SpecCluster._correct_state`: that holds one lock while
all new workers start, so that a slow one blocks the others; raises what one of them raises and leaves it behind for
good; and retires workers by the wrong names, so that their data are lost. Verified with distributed 2026.8;
`tests/cluster/test_dask_cluster_internals.py` holds the contract tests.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Nanny
from distributed.core import Status
from distributed.deploy.adaptive import Adaptive
from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import SpecCluster
from distributed.utils import import_term

from dask_fmware.errors import DeploymentError

__all__ = [
    "REPLACED",
    "close_worker",
    "count_apart",
    "is_ours_to_end",
    "is_over",
    "let_scale",
    "refuse_to_adapt",
    "scheduler_address",
    "spare",
    "start_worker",
    "stop_scaler",
    "worker_labels",
    "worker_names",
]

REPLACED = "another takes over"  # why a scaler is stopped


async def start_worker(cluster: SpecCluster, name: str, spec: Mapping[str, Any], timeout_s: float) -> None:
    """Add a worker to a cluster and wait until its process or job has been started (worker_spec, workers, _created).

    Whatever goes wrong is raised, and nothing of the worker is left.
    """
    cls = spec["cls"]
    if isinstance(cls, str):
        cls = import_term(cls)
    try:
        worker = cls(scheduler_address(cluster), **{"name": name, **spec.get("options", {})})
    except Exception:
        cluster.worker_spec.pop(name, None)
        raise
    cluster._created.add(worker)
    cluster.worker_spec[name] = dict(spec)
    cluster.workers[name] = worker
    worker._cluster = weakref.ref(cluster)
    if isinstance(worker, Nanny):
        _let_die_young(worker)
    try:
        await asyncio.wait_for(_started(worker), timeout_s)
    except BaseException as error:
        await close_worker(cluster, name, timeout_s=10.0)
        if isinstance(error, TimeoutError) and not error.args:
            raise TimeoutError(f"it had not started after {timeout_s:g} s") from error
        raise


def _let_die_young(nanny: Any) -> None:
    """Let a nanny end a process that is still starting (Nanny.kill, process; WorkerProcess.status, process, stopped).

    Stock `WorkerProcess.kill` fails on one, and the nanny forgets it: it would live as long as this process.
    """
    kill = nanny.kill

    async def kill_even_if_starting(*args: Any, **kwargs: Any) -> None:
        worker = nanny.process
        if worker is not None and worker.status == Status.starting and worker.process is not None:
            await worker.process.kill()
            await worker.stopped.wait()
        await kill(*args, **kwargs)

    nanny.kill = kill_even_if_starting


async def _started(worker: Any) -> None:
    await worker


async def close_worker(cluster: SpecCluster, name: str, timeout_s: float) -> None:
    """Take a worker out of a cluster and end its process or job; the cluster has it until then (worker_spec, workers).

    Whoever waits for this may be cancelled, the closing is not: a nanny that is interrupted forgets its process.
    """
    cluster.worker_spec.pop(name, None)
    worker = cluster.workers.get(name)
    if worker is not None:
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(_closed(cluster, name, worker))), timeout_s)


async def _closed(cluster: SpecCluster, name: str, worker: Any) -> None:
    try:
        if worker.status == Status.closing:
            await worker.finished()
        elif worker.status != Status.closed:
            await worker.close()
    finally:
        if cluster.workers.get(name) is worker:
            del cluster.workers[name]


def spare(cluster: SpecCluster, is_replica: Callable[[str], bool]) -> None:
    """Let a cluster close no replica for the loss of a worker of its name (SpecCluster._update_worker_status).

    Stock Dask does so 15 seconds after the loss, unless the scheduler knows a worker of that name by then: a replica
    that was stopped and is started again would end while it starts, or its job while it waits. Nor would one that is
    slow to come back from its nanny. Clusters that have a way of their own are left alone.
    """
    stock = SpecCluster._update_worker_status
    if type(cluster)._update_worker_status is not stock:
        return

    def told(op: str, msg: Any) -> None:
        is_spared = op == "remove" and is_replica(str(cluster.scheduler_info["workers"][msg]["name"]))
        (Cluster._update_worker_status if is_spared else stock)(cluster, op, msg)

    cluster._update_worker_status = told


def count_apart(cluster: SpecCluster, is_replica: Callable[[str], bool]) -> None:
    """Let ``cluster.scale(n)`` see the other workers alone (SpecCluster.scale, worker_spec, asynchronous, sync).

    Stock Dask counts and takes away whatever `worker_spec` holds, the latest first: replicas, without a drain. They
    are out of it for as long as the cluster's own way of scaling takes, in its loop, where nothing else looks
    meanwhile. A cluster that closes scales as ever.
    """
    own: Any = type(cluster).scale

    def scale(*args: Any, **kwargs: Any) -> Any:
        if cluster.status != Status.running:
            return own(cluster, *args, **kwargs)
        if cluster.asynchronous:
            return beside(*args, **kwargs)
        return cluster.sync(in_loop, *args, **kwargs)

    async def in_loop(*args: Any, **kwargs: Any) -> None:
        beside(*args, **kwargs)

    def beside(*args: Any, **kwargs: Any) -> Any:
        replicas = {name: spec for name, spec in cluster.worker_spec.items() if is_replica(str(name))}
        for name in replicas:
            del cluster.worker_spec[name]
        try:
            return own(cluster, *args, **kwargs)
        finally:
            cluster.worker_spec.update(replicas)

    cluster.scale = scale


def is_ours_to_end(cluster: SpecCluster, name: str) -> bool:
    """Whether a worker has its nanny here, whose closing ends it (SpecCluster.workers; Nanny.close).

    If the scheduler tells such a worker to close besides, the worker looks for a nanny that is closing already, for
    two seconds and with an error in the log, or the nanny is closed twice at a time, which logs another.
    """
    return isinstance(cluster.workers.get(name), Nanny)


def scheduler_address(cluster: SpecCluster) -> str:
    """Address that workers connect to (SpecCluster.scheduler)."""
    return getattr(cluster.scheduler, "contact_address", None) or str(cluster.scheduler.address)


def is_over(cluster: SpecCluster, name: str) -> bool:
    """Whether the process or job of a worker has ended for good (SpecCluster.workers)."""
    worker = cluster.workers.get(name)
    return worker is not None and worker.status in (Status.closed, Status.failed)


def stop_scaler(cluster: Any) -> None:
    """Stop whatever scales a cluster by itself, if something does (Cluster._adaptive)."""
    scaler = getattr(cluster, "_adaptive", None)
    if scaler is not None:
        scaler.stop(reason=REPLACED)


def let_scale(cluster: Any, scaler: Adaptive) -> None:
    """Let a cluster stop a scaler of ours when it is closed or told to adapt, as its own (Cluster._adaptive)."""
    cluster._adaptive = scaler


def refuse_to_adapt(cluster: SpecCluster, scaler: Adaptive) -> None:
    """Let a cluster refuse a scaler of Dask's while ours is at work (Cluster.adapt, AdaptiveCore.state).

    Stock Dask ends ours without a word, takes replicas for workers like any other, and takes the others away as too
    many.
    """
    own: Any = type(cluster).adapt

    def adapt(*args: Any, **kwargs: Any) -> Any:
        if scaler.state != "stopped":
            raise DeploymentError(
                "adapt: fm.provision starts and stops the replicas of this cluster, which a scaler of Dask would end, "
                "and it would count them; call cluster.scale(n) for the other workers, or first stop() what "
                "fm.provision has returned"
            )
        return own(cluster, *args, **kwargs)

    cluster.adapt = adapt


def worker_names(cluster: Any) -> set[str]:
    """Names of the workers that the scheduler knows, as the cluster last heard (Cluster.scheduler_info)."""
    return {str(info["name"]) for info in cluster.scheduler_info["workers"].values()}


def worker_labels(cluster: Any) -> list[tuple[str, set[str]]]:
    """Name of each worker that is not leaving, and those of its resources, as last heard (Cluster.scheduler_info)."""
    leaving = {Status.closing_gracefully.name, Status.closing.name, Status.closed.name}
    there = cluster.scheduler_info["workers"].values()
    return [(str(info["name"]), set(info["resources"])) for info in there if info["status"] not in leaving]
