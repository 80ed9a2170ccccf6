"""One test for each thing we rely on that distributed does not promise, named for what would break.

This is what its scheduler does, and what travels between it and workers; `test_dask_worker_internals.py` has the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, ClassVar

import pytest
from dask import config
from distributed import SchedulerPlugin, WorkerPlugin
from distributed.comm.addressing import get_address_host
from distributed.core import Status
from distributed.deploy.spec import SpecCluster
from distributed.scheduler import KilledWorker, NoValidWorkerError, Scheduler, TaskState
from distributed.worker import Worker

import dask_fmware as fm
from dask_fmware.model.plan import RunPlan
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler import retries
from dask_fmware_scheduler.dask_internals import NOWHERE, SchedulerInternals
from dask_fmware_workers.dask_internals import WorkerInternals
from tests.cluster.calls import call_local, local
from tests.cluster.flows import one


@pytest.fixture
async def cluster() -> Any:
    """A cluster with one replica and two light workers."""
    async with InProcessCluster(deployment("small", light_workers=2), validate=True) as cluster:
        yield cluster


@pytest.fixture
def dask(cluster: InProcessCluster) -> SchedulerInternals:
    return SchedulerInternals(cluster.scheduler)


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
    assert "plan" not in taken[0][1]


async def test_messages_of_our_own_travel_both_ways_on_the_worker_stream(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    there: asyncio.Queue[Any] = asyncio.Queue()
    back: asyncio.Queue[Any] = asyncio.Queue()
    worker = cluster.workers["light-0"]
    internals = WorkerInternals(worker)
    internals.listen({"test-there": lambda **message: there.put_nowait(message)})
    dask.listen({"test-back": lambda worker, **message: back.put_nowait((worker, message))})
    dask.send(worker.address, {"op": "test-there", "n": 1})
    assert (await asyncio.wait_for(there.get(), 30))["n"] == 1
    internals.send({"op": "test-back", "n": 2})
    sender, message = await asyncio.wait_for(back.get(), 30)
    assert (sender, message["n"]) == (worker.address, 2)


async def test_a_message_sent_from_a_thread_arrives_too(cluster: InProcessCluster, dask: SchedulerInternals) -> None:
    back: asyncio.Queue[int] = asyncio.Queue()
    dask.listen({"test-back": lambda worker, n, **message: back.put_nowait(n)})
    internals = WorkerInternals(cluster.workers["light-0"])
    await asyncio.to_thread(internals.send, {"op": "test-back", "n": 3})
    assert await asyncio.wait_for(back.get(), 30) == 3


async def test_rpc_handlers_can_be_added_to_scheduler_and_worker(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    dask.serve({"test_scheduler": lambda: "here"})
    WorkerInternals(cluster.workers["light-0"]).serve({"test_worker": lambda: "there"})
    assert await cluster.client.scheduler.test_scheduler() == "here"
    assert await cluster.scheduler.rpc(cluster.workers["light-0"].address).test_worker() == "there"
    assert await WorkerInternals(cluster.workers["light-1"]).ask_scheduler("test_scheduler") == "here"
    dask.stop_serving(["test_scheduler"])
    assert await cluster.client.scheduler.test_scheduler() is None  # how we know that there is no router


async def test_batched_streams_have_an_interval_that_can_be_lowered(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    worker = cluster.workers["light-0"]
    dask.send_at_once(worker=worker.address, interval_s=0.001)
    dask.send_at_once(client=cluster.client.id, interval_s=0.001)
    WorkerInternals(worker).send_at_once(0.001)
    assert cluster.scheduler.stream_comms[worker.address].interval == 0.001
    assert cluster.scheduler.client_comms[cluster.client.id].interval == 0.001
    assert worker.batched_stream.interval == 0.001
    assert hasattr(cluster.client.scheduler_comm, "interval")


async def test_a_message_can_wait_for_the_result_that_follows_and_goes_alone_if_none_does(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()

    def hear(worker: str, number: int) -> None:
        heard.put_nowait(number)

    dask.listen({"fmware-test": hear})
    worker = cluster.workers["light-0"]
    internals, stream = WorkerInternals(worker), worker.batched_stream
    stream.recent_message_log = deque(maxlen=10)  # as stock Dask has it

    def send() -> None:
        internals.send_with_result({"op": "fmware-test", "number": 1})
        internals.send({"op": "fmware-test", "number": 2})

    send()
    assert [await heard.get(), await heard.get()] == [1, 2]
    assert [message["number"] for message in stream.recent_message_log[-1]] == [1, 2]
    await asyncio.to_thread(send)
    assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == [1, 2]
    internals.send_with_result({"op": "fmware-test", "number": 3})
    assert await asyncio.wait_for(heard.get(), 10) == 3


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
