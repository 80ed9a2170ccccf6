"""Clients whose connection to the scheduler breaks, and that come back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from distributed.batched import BatchedSend
from distributed.comm import connect

import dask_fmware as fm
from dask_fmware.client.dask_internals import connection
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler import reconnections
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from tests.cluster.flows import one


@pytest.fixture
async def cluster() -> Any:
    async with InProcessCluster(deployment("small", token_s=0.02), validate=True) as cluster:
        yield cluster


def close_late(monkeypatch: pytest.MonkeyPatch, wait: Callable[[], Awaitable[object]]) -> None:
    """Have connections take a while to close, as with a scheduler that is busy."""
    close = BatchedSend.close

    async def late(self: BatchedSend, timeout: float | None = None) -> None:
        await wait()
        await close(self, timeout)

    monkeypatch.setattr(BatchedSend, "close", late)


async def broken(cluster: InProcessCluster) -> None:
    """Break the connection of the client and wait until it has another."""
    first = connection(cluster.client)
    first.comm.abort()
    await cluster.until(lambda: cluster.client.status == "running" and connection(cluster.client) not in (first, None))


@pytest.mark.parametrize("stock", [False, True])
async def test_a_client_that_comes_back_is_told_how_its_runs_end(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch, stock: bool
) -> None:
    client, session, closes = cluster.client, fm.Session(cluster.client), asyncio.Event()
    if stock:
        SchedulerInternals(cluster.scheduler).answer_registrations(None)
    close_late(monkeypatch, closes.wait)
    lost = asyncio.ensure_future(session.run(one("lost")))
    await cluster.until(cluster.requests)
    if not stock:  # which takes it in before
        asyncio.get_running_loop().call_later(0.3, closes.set)
    await broken(cluster)
    closes.set()
    with pytest.raises(RuntimeFaultError, match="was lost"):
        await lost
    await cluster.until(lambda: (client.id in cluster.scheduler.client_comms) is not stock)
    if not stock:
        assert (await asyncio.wait_for(session.run(one("why")), 20)).text
        await cluster.settled()


@pytest.mark.parametrize("seconds", [0.0, 0.3])
async def test_a_connection_that_nobody_found_broken_is_closed_for_the_next_one(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """As when the machine of a client was without a network for a moment. Two connections wait then for the first."""
    close_late(monkeypatch, lambda: asyncio.sleep(seconds))
    client = cluster.client
    first = connection(client)
    comm = await connect(cluster.scheduler.address, **client.connection_args)
    await comm.write({"op": "register-client", "client": client.id, "reply": False, "versions": {}})
    await cluster.until(first.comm.closed)
    await cluster.until(lambda: client.status == "running" and connection(client) not in (first, None))
    assert (await asyncio.wait_for(client.compute(one("why")), 20)).text
    comm.abort()


async def test_a_connection_that_does_not_close_is_waited_for_no_longer(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    closes = asyncio.Event()
    monkeypatch.setattr(reconnections, "LOOKS", 10)
    close_late(monkeypatch, closes.wait)
    await broken(cluster)
    closes.set()


async def test_dask_takes_clients_in_again_once_the_runtime_is_uninstalled(cluster: InProcessCluster) -> None:
    await fm.uninstall(cluster.client)
    assert cluster.scheduler.handlers["register-client"] == cluster.scheduler.add_client
    await broken(cluster)
