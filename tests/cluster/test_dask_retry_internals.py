"""What we rely on in Dask when workers die and tasks are retried, without a promise, one test for each thing."""

from __future__ import annotations

import asyncio

import pytest
from dask import config
from distributed.scheduler import KilledWorker

import dask_fmware as fm
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler import retries
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from tests.cluster.calls import call_local, local


@fm.task
async def wait(text: str) -> int:
    from tests.cluster.calls import call_local as here  # of this process, and no copy

    return int(await here("wait"))


@fm.workflow
def waiting(text):
    return wait(text)


async def test_tasks_of_runs_alone_outlive_more_deaths_of_workers_than_dask_allows(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    assert cluster.scheduler.allowed_failures == config.get("distributed.scheduler.allowed-failures")
    cluster.scheduler.allowed_failures = 0
    may_end = asyncio.Event()

    async def until_told() -> int:
        await may_end.wait()
        return 3

    local["wait"] = until_told
    bound = waiting("x")
    ours, key = cluster.client.compute(bound), f"waiting.wait-{bound.run_id}"
    await cluster.until(lambda: key in cluster.scheduler.tasks and cluster.scheduler.tasks[key].processing_on)
    own = cluster.scheduler.tasks[key]
    dead = own.processing_on.address
    theirs = cluster.client.submit(call_local, "wait", key="theirs", workers=[dead])
    await cluster.until(lambda: "theirs" in cluster.scheduler.tasks and cluster.scheduler.tasks["theirs"].processing_on)
    assert dask.deaths(own) == dask.deaths(cluster.scheduler.tasks["theirs"]) == 0
    await cluster.scheduler.remove_worker(dead, stimulus_id="test")
    with pytest.raises(KilledWorker):
        await theirs
    assert (dask.deaths(own), own.state) == (1, "processing")
    dask.pardon_no_more(key)
    assert own.suspicious == dask.deaths(own) == 1
    may_end.set()
    assert await ours == 3


@pytest.mark.parametrize("stock", [False, True])
async def test_a_client_is_told_of_the_retried_tasks_that_it_holds(
    cluster: InProcessCluster, dask: SchedulerInternals, stock: bool
) -> None:
    """Stock Dask names all of them, and the client looks each up among its futures."""
    left = [0]  # to divide by, one call after the other

    async def divide() -> float:
        return 1 / left.pop() if left else 1.0

    local["divide"] = divide
    future = cluster.client.get({"first": (call_local, "divide"), "last": (type, "first")}, "last", sync=False)
    with pytest.raises(ZeroDivisionError):
        await future
    if stock:
        dask.answer_retries(None)
        with pytest.raises(KeyError, match="first"):
            await future.retry()
        await cluster.until(lambda: cluster.scheduler.tasks["last"].state == "memory", "it is retried all the same")
    else:
        await future.retry()
        assert await future is float


@pytest.mark.parametrize("fails", [1, 2])
async def test_a_client_that_reads_late_that_it_has_retried_hears_again_how_that_ended(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """One that is busy reads its stream first, and takes a future for pending that is over."""
    monkeypatch.setattr(retries, "AGAIN_S", (0.5,))
    left = [0] * fails

    async def divide() -> float:
        return 1 / left.pop() if left else 1.0

    local["divide"] = divide
    client, future = cluster.client, cluster.client.submit(call_local, "divide", key="divided")
    with pytest.raises(ZeroDivisionError):
        await future
    named = await client.scheduler.retry(keys=[future.key], client=client.id)
    await cluster.until(lambda: future.status == ("error" if fails > 1 else "finished") and len(left) == 0)
    for key in named:  # as `Client._retry` does when it reads the answer
        client.futures[key].retry()
    assert future.status == "pending"
    if fails > 1:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(future, 10)
    else:
        assert await asyncio.wait_for(future, 10) == 1.0
