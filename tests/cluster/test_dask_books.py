"""What Dask remembers of work, messages and workers that are over, and that it forgets them here."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import deque
from typing import Any

import pytest
from dask.config import set as dask_config
from distributed.core import _expects_comm

from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler.dask_books import forget_finished_work
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from tests.cluster.flows import one


@pytest.fixture
async def cluster() -> Any:
    async with InProcessCluster(deployment("small", light_workers=2), validate=True) as cluster:
        yield cluster


async def test_streams_remember_what_was_sent_unless_they_are_told_not_to(cluster: InProcessCluster) -> None:
    comm = cluster.scheduler.stream_comms[cluster.workers["light-0"].address]
    comm.recent_message_log = deque(maxlen=10)  # as stock Dask has it; the router has told it not to
    await cluster.client.submit(str, "remembered", workers="light-0")
    assert comm.recent_message_log
    dask = SchedulerInternals(cluster.scheduler)
    dask.tune(worker=cluster.workers["light-0"].address, interval_s=None)
    dask.tune(client=cluster.client.id, interval_s=None)
    await cluster.client.submit(str, "forgotten", workers="light-0")
    assert not comm.recent_message_log
    assert not cluster.scheduler.client_comms[cluster.client.id].recent_message_log


async def test_what_dask_remembers_of_finished_work_is_bounded(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_fmware_scheduler.dask_books.KEPT", 3)
    monkeypatch.setattr("dask_fmware_scheduler.dask_books._unheard_s", lambda scheduler: 0.0)
    spans = cluster.scheduler.extensions["spans"]

    def books() -> list[int]:
        return [len(spans.spans), len(spans.root_spans), len(spans.spans_search_by_name["default",])]

    held = cluster.client.submit(str, "held", key="group-1", workers="light-0")
    await held
    for number in range(5):  # alone: each makes a span of its own
        await cluster.client.submit(str, number, workers="light-0")
        await cluster.until(lambda: len(cluster.scheduler.tasks) == 1)
    assert books() == [6, 6, 6]
    forget_finished_work(cluster.scheduler)
    assert books() == [4, 4, 4]  # that of the result which is held, too
    await cluster.client.submit(str, "more", key="group-1-more", workers="light-0")
    held.release()
    await cluster.until(lambda: not cluster.scheduler.tasks)
    forget_finished_work(cluster.scheduler)
    assert books() == [3, 3, 3]

    waiting = cluster.client.submit(asyncio.sleep, 3600, workers="light-0")  # keeps its span from being done
    await cluster.until(lambda: cluster.scheduler.tasks)
    for number in range(5):
        await cluster.client.submit(str, number, key=f"alone{number}-1", workers="light-1")
        await cluster.until(lambda: len(cluster.scheduler.tasks) == 1)
    [span] = [span for span in spans.spans.values() if not span.done]
    assert (len(span._metadata["collections"]), len(span.groups)) == (6, 6)
    assert len(cluster.scheduler.computations[-1].groups) == 6, "one computation, as the cluster was never idle"
    forget_finished_work(cluster.scheduler)
    assert (len(span._metadata["collections"]), len(span.groups)) == (3, 1)
    assert len(cluster.scheduler.computations[-1].groups) == 1
    assert span in spans.spans.values()
    await waiting.cancel()


async def test_groups_of_tasks_that_are_over_are_kept_for_the_latest_computations_only(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_fmware_scheduler.dask_books.KEPT", 3)
    held = cluster.client.submit(str, "held", key="held-1", workers="light-0")
    await held
    for number in range(6):  # alone: each is a computation with a group
        await cluster.client.submit(str, number, key=f"alone{number}-1", workers="light-0")
        await cluster.until(lambda: len(cluster.scheduler.tasks) == 1)
    forget_finished_work(cluster.scheduler)
    books = cluster.scheduler.computations, cluster.scheduler.extensions["spans"].spans_search_by_name["default",]
    for book in books:
        assert [len(one.groups) for one in book] == [1, 0, 0, 0, 1, 1, 1]


async def test_workers_that_are_gone_are_forgotten(cluster: InProcessCluster) -> None:
    stealing = cluster.scheduler.extensions["stealing"]
    for worker in cluster.scheduler.workers.values():
        stealing._combined_nprocessing(worker)  # as balancing looks at it
        stealing._combined_occupancy(worker, occupancies={worker: 0.0})
    await cluster.workers["light-1"].close()
    await cluster.until(lambda: len(cluster.scheduler.workers) == 2)
    forget_finished_work(cluster.scheduler)
    for book in (stealing.in_flight_tasks, stealing.in_flight_occupancy):
        assert set(book) == set(cluster.scheduler.workers.values())


async def test_servers_that_are_gone_are_forgotten(cluster: InProcessCluster) -> None:
    class Gone:
        def handler(self) -> None: ...

    gone = Gone()
    _expects_comm(gone.handler)  # as a server does with each question
    remembered = weakref.ref(gone)
    del gone
    gc.collect()
    assert remembered() is not None, "stock Dask does"
    forget_finished_work(cluster.scheduler)
    gc.collect()
    assert remembered() is None


async def test_topics_of_workers_that_are_gone_are_forgotten(cluster: InProcessCluster) -> None:
    with dask_config({"distributed.scheduler.events-cleanup-delay": "1ms"}):
        gone = cluster.workers["light-1"].address
        await cluster.workers["light-1"].close()
    topics = cluster.scheduler._broker._topics
    await cluster.until(lambda: not topics[gone].events, "Dask forgets the events")
    cluster.scheduler.subscribe_topic("heard", cluster.client.id)
    forget_finished_work(cluster.scheduler)
    assert gone not in topics
    assert "heard" in topics
    assert cluster.workers["light-0"].address in topics


async def test_the_router_keeps_dasks_books_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware_scheduler.router.TIDY", 2)
    monkeypatch.setattr("dask_fmware_scheduler.dask_books.KEPT", 3)
    monkeypatch.setattr("dask_fmware_scheduler.dask_books._unheard_s", lambda scheduler: 0.0)
    async with InProcessCluster(deployment("small")) as cluster:
        for _ in range(8):
            await cluster.client.compute(one("x"))
            await cluster.settled()
        assert len(cluster.scheduler.extensions["spans"].spans) <= 4
