"""Callers that are cancelled while results are fetched, at every step of the event loop that the fetch takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from distributed import Future

import dask_fmware as fm
from dask_fmware.client.fetching import fetched
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.testing import InProcessCluster, deployment

STEPS = range(1, 7)  # of the event loop before the cancellation
small = fm.Model("small")


@fm.workflow
def ask(question):
    return small("{question}", question=question)


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessCluster]:
    async with InProcessCluster(deployment("small", text="so it is")) as cluster:
        yield cluster


async def cancelled_after(steps: int, awaited: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(awaited)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ended(cluster: InProcessCluster) -> Future:
    """A run that has ended, and whose result has not been fetched."""
    future: Future = cluster.client.compute(ask(question="so?"))
    await future._state.wait()
    return future


@pytest.mark.parametrize("steps", STEPS)
async def test_a_client_fetches_on_after_a_caller_was_cancelled(cluster: InProcessCluster, steps: int) -> None:
    first, second = await ended(cluster), await ended(cluster)
    await cancelled_after(steps, fetched(first.result()))
    first.release()
    async with asyncio.timeout(20):
        assert (await fetched(second.result())).text == "so it is"


async def test_a_fetch_of_dasks_own_that_is_cancelled_breaks_its_client(cluster: InProcessCluster) -> None:
    """The fault that `fetched` keeps callers from; when Dask has mended it, `fetched` can go."""
    broken = 0
    for steps in STEPS:
        await cancelled_after(steps, (await ended(cluster)).result())
        broken += cluster.client._gather_future is not None and cluster.client._gather_future.cancelled()
        if cluster.client._gather_future is not None:
            with pytest.raises(RuntimeFaultError, match=r"Make a new Client.*fm\.Session"):
                await fetched((await ended(cluster)).result())
        cluster.client._gather_future = cluster.client._gather_keys = None
    assert broken


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_session_goes_on_after_callers_were_cancelled(cluster: InProcessCluster, steps: int) -> None:
    session = fm.Session(cluster.client)
    many = [asyncio.ensure_future(session.run(ask(question="so?"))) for _ in range(4)]
    await cancelled_after(steps, session.run(ask(question="so?")))
    for task in many:
        task.cancel()
    async with asyncio.timeout(20):
        assert (await session.run(ask(question="so?"))).text == "so it is"
    await asyncio.gather(*many, return_exceptions=True)
