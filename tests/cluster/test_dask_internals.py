"""One test for each thing we rely on that distributed does not promise, named for what would break.

This is what its scheduler does; files beside this one have its workers, messages, results, retries and clusters.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from distributed import SchedulerPlugin, WorkerPlugin
from distributed.comm.addressing import get_address_host
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.scheduler import NoValidWorkerError, Scheduler, TaskState
from distributed.worker import Worker

from dask_fmware.model.plan import RunPlan
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from dask_fmware_scheduler.dask_tasks import NOWHERE
from dask_fmware_workers.dask_internals import WorkerInternals
from tests.cluster.flows import one


class _Hold(SchedulerPlugin):
    """Holds what becomes runnable, as the router does; records what it was told."""

    name = "test-hold"

    def __init__(self, dask: SchedulerInternals) -> None:
        self.dask = dask
        self.seen: list[tuple[str, str, str]] = []

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        self.seen.append((str(key), start, finish))
        if str(key).startswith("held") and finish == "waiting":
            task = self.dask.task(key)
            assert task is not None
            self.dask.hold(task)


@pytest.fixture
def plugin(cluster: InProcessCluster, dask: SchedulerInternals) -> _Hold:
    plugin = _Hold(dask)
    cluster.scheduler.add_plugin(plugin)
    return plugin


async def test_a_task_restricted_to_a_worker_that_never_exists_parks_and_is_released_by_a_pin(
    cluster: InProcessCluster, dask: SchedulerInternals, plugin: _Hold
) -> None:
    future = cluster.client.submit(len, "abc", key="held-1")
    await cluster.until(lambda: dask.is_unrunnable("held-1"))
    task = dask.task("held-1")
    assert task is not None
    assert dask.is_held(task)
    dask.pin(task, {cluster.workers["light-1"].address})
    dask.release_held(["held-1"], "test")
    assert await future == 3
    assert dask.holders("held-1") == {cluster.workers["light-1"].address}
    assert ("held-1", "waiting", "no-worker") in plugin.seen
    assert ("held-1", "no-worker", "processing") in plugin.seen


async def test_places_that_a_submitter_names_neither_free_a_held_task_nor_keep_a_pinned_one(
    cluster: InProcessCluster, dask: SchedulerInternals, plugin: _Hold
) -> None:
    light = cluster.workers["light-1"].address
    for key, place in (("held-r", {"resources": {"scanner": 1}}), ("held-w", {"workers": get_address_host(light)})):
        future = cluster.client.submit(len, "abc", key=key, **place)
        await cluster.until(lambda key=key: dask.is_unrunnable(key))
        task = dask.task(key)
        assert task is not None
        assert dask.has_place(task)
        dask.disregard_places(key)
        assert not dask.has_place(task)
        dask.pin(task, {light})
        dask.release_held([key], "test")
        assert await future == 3
        assert dask.holders(key) == {light}


async def test_an_unrunnable_task_can_be_failed_with_an_error_that_the_client_gets(
    cluster: InProcessCluster, dask: SchedulerInternals, plugin: _Hold
) -> None:
    future = cluster.client.submit(len, "abc", key="held-2")
    await cluster.until(lambda: dask.is_unrunnable("held-2"))
    dask.fail_held("held-2", KeyError("reason"), "test")
    with pytest.raises(KeyError, match="reason"):
        await future
    assert dask.failure("held-2") == ("held-2", "KeyError: 'reason'")


async def test_the_time_of_a_held_task_can_begin_anew_and_that_of_others_goes_on(
    cluster: InProcessCluster, dask: SchedulerInternals, plugin: _Hold
) -> None:
    cluster.scheduler.no_workers_timeout = 0.5
    assert dask.unrunnable_s == 0.5
    held = cluster.client.submit(len, "abc", key="held-3")
    lost = cluster.client.submit(len, "abc", key="lost", resources={"scanner": 1})
    await cluster.until(lambda: dask.is_unrunnable("held-3") and dask.is_unrunnable("lost"))
    while dask.is_unrunnable("lost"):
        dask.renew_held()
        await asyncio.sleep(0.1)
    with pytest.raises(NoValidWorkerError, match="scanner"):
        await lost
    assert dask.is_unrunnable("held-3")
    with pytest.raises(NoValidWorkerError, match="fmware-hold"):  # nobody renews it any more
        await held


async def test_dependents_are_seen_as_runnable_before_dask_places_them(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    seen: list[list[str]] = []

    class Watch(SchedulerPlugin):
        name = "test-watch"

        def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
            if key == "first" and finish == "memory":
                task = dask.task("first")
                assert task is not None
                seen.append([d.key for d in dask.runnable_dependents(task)])
                for dependent in dask.runnable_dependents(task):
                    dask.pin(dependent, {cluster.workers["light-0"].address})

    cluster.scheduler.add_plugin(Watch())
    future = cluster.client.get({"first": (int, "1"), "second": (float, "first")}, "second", sync=False)
    assert await future == 1.0
    assert seen == [["second"]]


async def test_the_plan_is_found_in_a_tasks_arguments_and_taken_out(cluster: InProcessCluster) -> None:
    taken: list[Any] = []
    router = cluster.router
    original = router.dask.take_plan

    def take(key: str) -> RunPlan | None:
        plan = original(key)
        taken.append((plan, router.dask.task(key).run_spec.kwargs))
        return plan

    router.dask.take_plan = take
    assert (await cluster.client.compute(one("x"))).model == "small"
    assert isinstance(taken[0][0], RunPlan)
    assert taken[0][1] == {}  # a call that is told nothing carries nothing


async def test_the_scheduler_logs_status_changes_of_workers_to_plugins(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    heard: list[str] = []

    class Log(SchedulerPlugin):
        name = "test-log"

        def log_event(self, topic: str, msg: Any) -> None:
            if dask.is_status_change(msg):
                heard.append(topic)

    cluster.scheduler.add_plugin(Log())
    worker = cluster.workers["light-0"]
    if (monitor := worker.periodic_callbacks.get("memory_monitor")) is not None:
        monitor.stop()  # it resumes a worker that has memory left
    worker.status = Status.paused
    await cluster.until(lambda: not dask.takes_tasks(worker.address))
    worker.status = Status.running
    await cluster.until(lambda: dask.takes_tasks(worker.address))
    assert heard == [worker.address] * 2
    assert dask.is_known(worker.address)
    assert not dask.takes_tasks("tcp://127.0.0.1:1")


async def test_results_are_moved_by_acquire_and_remove(cluster: InProcessCluster, dask: SchedulerInternals) -> None:
    source, target = cluster.workers["light-0"].address, cluster.workers["light-1"].address
    future = cluster.client.submit(str, 5, key="result", workers=[source])
    await future
    assert not dask.is_used_on("result", source)
    dask.copy_results(["result"], target, "test")
    await cluster.until(lambda: dask.holders("result") == {source, target})
    dask.remove_results(["result"], source, "test")
    await cluster.until(lambda: dask.holders("result") == {target})
    assert await future == "5"


async def test_resources_of_a_worker_serve_as_labels(cluster: InProcessCluster, dask: SchedulerInternals) -> None:
    worker = cluster.workers["small-cpu-0"]
    assert dask.resources(worker.address) == WorkerInternals(worker).resources
    assert dask.resources(worker.address)["fm-model:small"] == 1
    assert dask.resources("tcp://127.0.0.1:1") == {}


def test_the_attributes_that_the_adapters_name_exist() -> None:
    for attribute in (
        "annotations",
        "worker_restrictions",
        "host_restrictions",
        "resource_restrictions",
        "loose_restrictions",
        "waiting_on",
        "dependents",
        "who_has",
        "suspicious",
    ):
        assert attribute in TaskState.__slots__
    for attribute in (
        "transitions",
        "transition",
        "worker_send",
        "request_acquire_replicas",
        "request_remove_replicas",
    ):
        assert callable(getattr(Scheduler, attribute))
    for attribute in ("batched_send", "handle_stimulus"):
        assert callable(getattr(Worker, attribute))
    for attribute in ("_correct_state", "_update_worker_status", "_start"):
        assert callable(getattr(SpecCluster, attribute))
    assert NOWHERE.startswith("tcp://")


def mark_or_fail(words: str, dask_worker: Worker) -> None:
    if not words:
        raise ValueError("nothing to write")
    dask_worker.plugins["words"] = words  # type: ignore[assignment]


async def test_a_function_runs_on_a_worker_beside_its_tasks(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    worker = cluster.workers["light-1"]
    await dask.run(worker.address, mark_or_fail, words="here")
    assert worker.plugins.pop("words") == "here"
    with pytest.raises(RuntimeError, match=r"mark_or_fail failed \(.*nothing to write"):
        await dask.run(worker.address, mark_or_fail, words="")


class _Noted(WorkerPlugin):
    """Notes where it was taken out."""

    name = "test-noted"
    gone: ClassVar[list[str]] = []

    def teardown(self, worker: Worker) -> None:
        self.gone.append(worker.address)


async def test_plugins_are_found_and_removed_those_that_came_with_a_preload_of_their_worker_too(
    cluster: InProcessCluster, dask: SchedulerInternals, plugin: _Hold, caplog: pytest.LogCaptureFixture
) -> None:
    assert dask.plugin("test-hold") is plugin
    dask.remove_plugin("test-hold")
    dask.remove_plugin("test-hold")
    assert dask.plugin("test-hold") is None
    with_it = cluster.workers["light-1"]
    await with_it.plugin_add(plugin=_Noted())  # as a preload does, which no scheduler knows of
    await dask.remove_worker_plugin("test-noted", unregistered=False)
    assert _Noted.gone == []
    await dask.remove_worker_plugin("test-noted", unregistered=True)
    assert _Noted.gone == [with_it.address]
    await cluster.client.register_plugin(_Noted())
    assert dask.gives_workers("test-noted")
    await dask.remove_worker_plugin("test-noted", unregistered=False)
    assert sorted(_Noted.gone[1:]) == sorted(dask.workers())
    assert not dask.gives_workers("test-noted")
    assert not [record for record in caplog.records if record.exc_info]
