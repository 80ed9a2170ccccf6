"""What starting and ending the workers of a Dask cluster one by one relies on: one test for each thing.

The adapter is `dask_fmware/cluster/dask_internals.py`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import dask.config
import pytest
from distributed import LocalCluster, Nanny
from distributed.core import Status
from distributed.worker import Worker

from dask_fmware.cluster.backends import SpecBackend
from dask_fmware.cluster.dask_internals import (
    close_worker,
    is_ours_to_end,
    is_over,
    let_scale,
    start_worker,
    stop_scaler,
    worker_labels,
    worker_names,
)
from dask_fmware.spec.deployment import Deployment
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.chaos import command, descendants


@pytest.fixture
async def cluster() -> Any:
    async with InProcessCluster(deployment("small"), validate=True) as cluster:
        yield cluster


async def test_workers_are_added_to_a_cluster_and_taken_out_one_by_one(cluster: InProcessCluster) -> None:
    spec_cluster = cluster.cluster
    made = {"cls": Worker, "options": {"nthreads": 1, "resources": {"fm-thing": 1}}}
    await start_worker(spec_cluster, "added", made, 10.0)
    await cluster.until(lambda: "added" in worker_names(spec_cluster), "the cluster hears of it")
    assert {"fm-thing"} in [labels for _, labels in worker_labels(spec_cluster)]
    assert not is_over(spec_cluster, "added")
    await spec_cluster.workers["added"].close()
    assert is_over(spec_cluster, "added")
    await close_worker(spec_cluster, "added", 10.0)
    assert "added" not in spec_cluster.workers
    assert "added" not in spec_cluster.worker_spec


async def test_a_worker_that_cannot_start_leaves_nothing_behind(cluster: InProcessCluster) -> None:
    with pytest.raises(TypeError):
        await start_worker(cluster.cluster, "bad", {"cls": Worker, "options": {"no_such_option": 1}}, 10.0)
    assert "bad" not in cluster.cluster.workers
    assert "bad" not in cluster.cluster.worker_spec


async def test_a_worker_that_does_not_start_in_time_says_so(cluster: InProcessCluster) -> None:
    class Slow(Worker):
        async def start_unsafe(self) -> Any:
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match=r"it had not started after 0\.1 s"):
        await start_worker(cluster.cluster, "slow", {"cls": Slow, "options": {"nthreads": 1}}, 0.1)


@pytest.fixture
async def processes() -> Any:
    """A cluster whose workers are processes; none of them is left in the end."""
    others = descendants(os.getpid())
    async with LocalCluster(n_workers=0, asynchronous=True, dashboard_address=":0") as cluster:
        yield cluster
    async with asyncio.timeout(30):
        while any(command(one) for one in descendants(os.getpid()) if one not in others):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


class Scaler:
    """Stands for one of ours."""

    periodic_callback = None

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def stop(self, reason: str = "unknown") -> None:
        self.stopped.append(reason)


async def test_a_cluster_has_one_scaler_and_stops_it_when_it_is_closed() -> None:
    async with LocalCluster(n_workers=0, processes=False, dashboard_address=None, asynchronous=True) as cluster:
        stop_scaler(cluster)  # there is none
        stock = cluster.adapt(minimum=0, maximum=1, interval="1h")
        stop_scaler(cluster)
        assert stock.state == "stopped"
        ours = Scaler()
        let_scale(cluster, ours)  # type: ignore[arg-type]
    assert ours.stopped  # by each class that closes: twice does no harm


@pytest.mark.parametrize("name", ["small-cpu-0", "other"])
async def test_a_replica_is_not_closed_for_the_loss_of_an_earlier_one_of_its_name(name: str) -> None:
    """Dask closes who has the name of a worker that was lost 15 s before, unless its scheduler knows it by then."""
    spec, release = {"cls": Worker, "options": {"nthreads": 1}}, asyncio.Event()

    class Slow(Worker):
        async def start_unsafe(self) -> Any:
            await release.wait()
            return await super().start_unsafe()

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):
        async with LocalCluster(n_workers=0, processes=False, dashboard_address=None, asynchronous=True) as cluster:
            SpecBackend(cluster, Deployment.model_validate(deployment("small")), lambda _: spec, 60.0)
            await start_worker(cluster, name, spec, 60.0)
            while name not in worker_names(cluster):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            await close_worker(cluster, name, 60.0)
            again = asyncio.ensure_future(start_worker(cluster, name, {**spec, "cls": Slow}, 60.0))
            await asyncio.sleep(0.5)
            assert (name in cluster.workers) is (name == "small-cpu-0")
            release.set()
            await asyncio.wait([again])


async def test_a_worker_that_is_closed_while_it_starts_leaves_no_process(processes: LocalCluster) -> None:
    spec = {"cls": Nanny, "options": {"nthreads": 1}}
    starting = asyncio.ensure_future(start_worker(processes, "young", spec, 60.0))
    while not ("young" in processes.workers and processes.workers["young"].process):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.wait([starting])
    assert "young" not in processes.workers


async def test_whoever_waits_for_a_worker_to_close_may_be_cancelled(processes: LocalCluster) -> None:
    await start_worker(processes, "old", {"cls": Nanny, "options": {"nthreads": 1}}, 60.0)
    nanny = processes.workers["old"]
    closing = asyncio.ensure_future(close_worker(processes, "old", 60.0))
    while nanny.status != Status.closing:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert processes.workers["old"] is nanny  # its card is not free yet
    await close_worker(processes, "old", 60.0)
    assert nanny.status == Status.closed
    assert "old" not in processes.workers


async def test_workers_that_are_retired_and_then_ended_by_their_nannies_go_without_a_word(
    processes: LocalCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["one", "two", "three"]
    spec = {"cls": Nanny, "options": {"nthreads": 1}}
    await asyncio.gather(*(start_worker(processes, name, spec, 60.0) for name in names))
    backend = SpecBackend(processes, Deployment.model_validate(deployment("small")), lambda _: spec, 60.0)
    assert all(is_ours_to_end(processes, name) for name in names)
    addresses = {name: processes.workers[name].worker_address for name in names}
    await asyncio.gather(*(backend.stop(name, "small", "cpu", address) for name, address in addresses.items()))
    assert not processes.workers
    assert not processes.scheduler.workers
    said = capfd.readouterr()
    assert not any(word in said.out + said.err for word in ("ERROR", "unaware", "still alive"))


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_cluster_is_scaled_beside_its_replicas(asynchronous: bool) -> None:
    spec = {"cls": Worker, "options": {"nthreads": 1}}
    replicas = ["small-cpu-0", "small-cpu-1"]

    def names(cluster: LocalCluster) -> list[str]:
        return sorted(map(str, cluster.worker_spec))

    async def scaled(cluster: LocalCluster) -> None:
        for wanted in (3, 1, 0):  # a scaler of Dask's calls it so, too
            cluster.scale(wanted)
            await cluster
            assert names(cluster) == sorted(map(str, cluster.workers))
            assert len(names(cluster)) == wanted + 2
            assert set(replicas) <= set(names(cluster))

    async with LocalCluster(n_workers=1, processes=False, dashboard_address=None, asynchronous=True) as cluster:
        SpecBackend(cluster, Deployment.model_validate(deployment("small")), lambda _: spec, 60.0)
        for name in replicas:
            await start_worker(cluster, name, spec, 60.0)
        if asynchronous:
            await scaled(cluster)
        else:
            cluster._asynchronous = False  # as in a notebook, where another thread calls
            await asyncio.to_thread(cluster.scale, 3)
            cluster._asynchronous = True
            await cluster
            assert len(names(cluster)) == 5
    assert not cluster.workers  # a cluster that closes ends all
