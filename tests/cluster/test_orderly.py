"""Clusters whose start is cut short are closed, and leave nothing."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from distributed.core import Status

import dask_fmware as fm
from dask_fmware.errors import DeploymentError
from dask_fmware.testing import deployment
from tests.cluster.chaos import descendants, none_left


def made(**options: object) -> fm.LocalModelCluster:
    return fm.LocalModelCluster(deployment("small"), dashboard_address=None, processes=False, **options)


async def cut_short(cluster: fm.LocalModelCluster, starting: asyncio.Future[object], steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert cluster.status == Status.closed
    assert cluster.scheduler.status == Status.closed
    assert all(worker.status == Status.closed for worker in cluster._created)
    if others := asyncio.all_tasks() - {asyncio.current_task()}:  # a last message may be on its way; what waits stays
        await asyncio.wait(others, timeout=10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def entered(cluster: fm.LocalModelCluster) -> None:
    async with cluster:
        await asyncio.sleep(60)


@pytest.mark.parametrize("steps", [1, 3, 8, 15, 24, 30, 36, 56, 88])
async def test_a_start_that_is_cancelled_is_taken_back(steps: int) -> None:
    cluster = made(asynchronous=True)
    await cut_short(cluster, asyncio.ensure_future(entered(cluster)), steps)


@pytest.mark.parametrize("steps", [3, 30])
async def test_so_is_one_that_is_awaited(steps: int) -> None:
    cluster = made(asynchronous=True)
    await cut_short(cluster, asyncio.ensure_future(cluster), steps)


async def test_who_waits_for_a_closing_may_be_cancelled() -> None:
    cluster = await made(asynchronous=True)
    closing = asyncio.ensure_future(cluster.close())
    while cluster.status != Status.closing:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await cluster.close()
    assert cluster.status == Status.closed


async def test_a_cluster_that_runs_outlives_those_who_wait_for_it() -> None:
    async with made(asynchronous=True) as cluster:
        waiting = asyncio.ensure_future(cluster)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert cluster.status == Status.running


async def test_a_cluster_that_cannot_start_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(_: object) -> None:
        raise DeploymentError("no")

    monkeypatch.setattr(fm.LocalModelCluster, "_install", fails)
    cluster = made(asynchronous=True)
    with pytest.raises(DeploymentError):
        await cluster
    await cluster.close()
    assert cluster.scheduler.status == Status.closed


def interrupting(monkeypatch: pytest.MonkeyPatch, after_s: float) -> None:
    real, seen = fm.LocalModelCluster._correct_state, set[fm.LocalModelCluster]()

    def correct(cluster: fm.LocalModelCluster) -> object:
        if cluster not in seen:
            seen.add(cluster)
            asyncio.get_running_loop().call_later(after_s, os.kill, os.getpid(), signal.SIGINT)
        return real(cluster)

    monkeypatch.setattr(fm.LocalModelCluster, "_correct_state", correct)


def test_ctrl_c_while_workers_start_closes_the_cluster_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    known = set(fm.LocalModelCluster._instances)
    interrupting(monkeypatch, 0.0)
    with pytest.raises(KeyboardInterrupt):
        made()
    assert all(cluster.status == Status.closed for cluster in set(fm.LocalModelCluster._instances) - known)


@pytest.mark.slow
def test_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    others = descendants(os.getpid())
    interrupting(monkeypatch, 0.3)
    with pytest.raises(KeyboardInterrupt):
        fm.LocalModelCluster(deployment("small"), dashboard_address=None)
    none_left([one for one in descendants(os.getpid()) if one not in others])
