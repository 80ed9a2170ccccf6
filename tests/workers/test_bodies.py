"""The client for maps and loops of a worker, when what it waits for goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from distributed import Client

from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_workers.bodies import BodyClient
from dask_fmware_workers.dask_internals import WorkerInternals
from tests.cluster.flows import fan


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessCluster]:
    async with InProcessCluster(deployment("small", text="so it is")) as cluster:
        yield cluster


async def test_a_map_that_is_cancelled_while_its_client_connects_submits_nothing(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, connecting, go_on = WorkerInternals.client, asyncio.Event(), asyncio.Event()

    async def client(internals: WorkerInternals) -> Client:
        connecting.set()
        await go_on.wait()
        return await real(internals)

    monkeypatch.setattr(WorkerInternals, "client", client)
    future = cluster.client.compute(fan(["a", "b"]))
    await connecting.wait()
    await future.cancel()
    await cluster.until(lambda: not any(host.bodies._waiting for host in cluster.hosts.values()))
    go_on.set()
    assert len(await cluster.client.compute(fan(["c"]))) == 1
    assert (cluster.requests("a"), cluster.requests("b"), cluster.requests("c")) == (0, 0, 1)
    await cluster.settled()


async def test_a_client_that_was_lost_is_made_anew(cluster: InProcessCluster) -> None:
    assert len(await cluster.client.compute(fan(["a"]))) == 1
    (bodies,) = [host.bodies for host in cluster.hosts.values() if host.bodies._client is not None]
    await bodies._client.result().close()
    assert len(await cluster.client.compute(fan(["b"]))) == 1


@pytest.mark.parametrize("steps", [2, 5, 10, 20, 30])
async def test_one_that_is_closed_while_it_connects_leaves_nothing(cluster: InProcessCluster, steps: int) -> None:
    bodies = BodyClient(cluster.hosts["light-0"].dask)
    before, others = set(cluster.scheduler.clients), asyncio.all_tasks()
    running: asyncio.Task[Any] = asyncio.ensure_future(bodies.run({}, [], "no-such-task"))
    for _ in range(steps):
        await asyncio.sleep(0)
    await bodies.close()
    await asyncio.wait([running])
    await cluster.until(lambda: set(cluster.scheduler.clients) == before)
    await cluster.until(lambda: not [t for t in asyncio.all_tasks() - others if "Client" in repr(t.get_coro())])
