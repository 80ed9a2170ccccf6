"""What we rely on in a worker of distributed and its clients without a promise, one test for each thing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dask._task_spec import Task
from distributed import Reschedule, SchedulerPlugin, WorkerPlugin
from distributed.scheduler import Scheduler
from distributed.worker import Worker
from distributed.worker_state_machine import PauseEvent

from dask_fmware.testing import InProcessCluster
from dask_fmware_workers.dask_internals import WorkerInternals
from tests.cluster.calls import call_local, local


async def test_a_worker_tells_its_plugins_when_a_running_task_is_released(cluster: InProcessCluster) -> None:
    heard: list[tuple[str, str]] = []
    started = asyncio.Event()

    class Watch(WorkerPlugin):
        name = "test-watch"

        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            if key == "endless":
                heard.append((start, finish))

    async def endless() -> None:
        started.set()
        await asyncio.sleep(3600)

    worker = cluster.workers["light-0"]
    await worker.plugin_add(Watch(), name="test-watch")
    local["endless"] = endless
    future = cluster.client.submit(call_local, "endless", key="endless", workers=[worker.address])
    await cluster.until(lambda: ("ready", "executing") in heard)
    await future.cancel()
    await cluster.until(lambda: ("executing", "released") in heard)


async def test_a_task_that_raises_reschedule_becomes_waiting_again(cluster: InProcessCluster) -> None:
    tries: list[int] = []

    async def again() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise Reschedule
        return len(tries)

    local["again"] = again
    assert await cluster.client.submit(call_local, "again", key="again") == 2


class _Added(WorkerPlugin):
    name = "test-added"
    error: Exception | None = None

    def setup(self, worker: Worker) -> None:
        if self.error is not None:
            raise self.error


async def test_a_plugin_adds_another_where_there_is_none(cluster: InProcessCluster) -> None:
    class Adding(WorkerPlugin):
        name = "test-adding"

        async def setup(self, worker: Worker) -> None:
            assert WorkerInternals(worker).plugin("test-added") is None
            await WorkerInternals(worker).add_plugin(_Added())

    worker = cluster.workers["light-0"]
    await worker.plugin_add(Adding(), catch_errors=False)
    assert WorkerInternals(worker).plugin("test-added") is not None
    broken = _Added()
    broken.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await WorkerInternals(worker).add_plugin(broken)


async def test_a_task_that_a_paused_worker_has_not_begun_can_be_sent_back(cluster: InProcessCluster) -> None:
    paused, other = cluster.workers["light-0"], cluster.workers["light-1"]
    paused.handle_stimulus(PauseEvent(stimulus_id="test"))
    future = cluster.client.submit(len, "abc", key="waits", workers=[paused.address])
    await cluster.until(lambda: "waits" in paused.state.tasks and paused.state.tasks["waits"].state == "ready")
    cluster.scheduler.handle_worker_status_change("paused", cluster.scheduler.workers[paused.address], "test")
    cluster.scheduler.set_restrictions({"waits": [other.address]})
    WorkerInternals(paused).send_back("waits")
    assert await future == 3
    await cluster.until(lambda: "waits" not in paused.state.tasks)


def seceding(worker: Worker, key: str, go_on: asyncio.Event) -> str:
    """Have `call_local` of a key give its thread slot back and wait."""

    async def wait() -> str:
        WorkerInternals(worker).secede(key)
        await go_on.wait()
        return key

    local[key] = wait
    return key


async def test_a_seceded_coroutine_gives_its_thread_slot_back(cluster: InProcessCluster) -> None:
    worker, go_on = cluster.workers["light-0"], asyncio.Event()
    keys = [seceding(worker, f"wait-{n}", go_on) for n in range(2 * worker.state.nthreads)]
    futures = [cluster.client.submit(call_local, key, key=key, workers=[worker.address]) for key in keys]
    await cluster.until(lambda: sum(t.state == "long-running" for t in worker.state.tasks.values()) == len(keys))
    go_on.set()
    assert await cluster.client.gather(futures) == keys


async def test_work_stealing_can_weigh_tasks_whose_kind_secedes(cluster: InProcessCluster) -> None:
    worker, go_on = cluster.workers["light-0"], asyncio.Event()
    keys = [seceding(worker, f"seceding-{n:032x}", go_on) for n in range(3)]
    given = await cluster.client.scatter("x", workers=[worker.address])
    futures = []
    for key in keys:  # an extension that fails is found by `no_plugin_fails`
        futures.append(cluster.client.submit(call_local, key, after=given, key=key, workers=[worker.address]))
        await cluster.until(lambda: len(cluster.scheduler.workers[worker.address].long_running) == len(futures))
    go_on.set()
    assert await cluster.client.gather(futures) == keys


async def test_a_worker_can_open_a_client_of_its_own(cluster: InProcessCluster) -> None:
    client = await WorkerInternals(cluster.workers["light-0"]).client()
    async with client:
        assert await client.submit(len, "abc") == 3


async def test_a_client_that_comes_while_all_are_told_something_is_made_all_the_same(cluster: InProcessCluster) -> None:
    class Tells(SchedulerPlugin):
        """Tells all clients of a cancellation in the moment the first of them comes."""

        told = 0

        def add_client(self, scheduler: Scheduler, client: str) -> None:
            if "fmware-bodies" in client and self.told < 3:
                self.told += 1
                cluster.scheduler.loop.asyncio_loop.call_soon(
                    scheduler.report, {"op": "cancelled-keys", "keys": [], "reason": "", "msg": ""}
                )

    plugin = Tells()
    cluster.scheduler.add_plugin(plugin, name="tells")
    dask = WorkerInternals(cluster.workers["light-0"])
    bodies = [await dask.client() for _ in range(2)]
    assert plugin.told == 3
    for client in bodies:
        assert await client.submit(len, "abc") == 3
        await client.close()


def test_a_task_can_say_itself_that_it_is_a_coroutine() -> None:
    task = Task("key", len, "abc")
    assert not task.is_coro
    task = Task("key", len, "abc")
    task._is_coro = True
    assert task.is_coro
