"""What we rely on in Dask where results travel, without a promise, one test for each thing."""

from __future__ import annotations

import asyncio
import pickle
from collections import deque
from collections.abc import Collection
from typing import Any

import pytest
from dask._task_spec import Task, TaskRef
from dask.tokenize import TokenizationError
from distributed import SchedulerPlugin
from distributed.comm import utils as comm_utils

from dask_fmware.client import dask_internals as internals
from dask_fmware.streams import keep_no_messages, measure_no_messages
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from dask_fmware_workers.dask_internals import WorkerInternals


async def test_a_worker_that_is_given_a_result_holds_it_as_if_it_had_fetched_it(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    source, target = cluster.workers["light-0"], cluster.workers["light-1"]
    future = cluster.client.submit(str, "held", key="held", workers=[source.address])
    await future
    before = source.transfer_outgoing_count_total
    WorkerInternals(target).hold("held", "held")
    await cluster.until(lambda: dask.holders("held") == {source.address, target.address})
    length = await cluster.client.submit(len, future, workers=[target.address])
    assert length == 4
    assert source.transfer_outgoing_count_total == before
    WorkerInternals(target).hold("held", "another")  # it is there already
    assert target.data["held"] == "held"
    future.release()
    await cluster.until(lambda: not source.data and not target.data)


async def test_a_worker_is_told_to_forget_a_result_that_nobody_needs(cluster: InProcessCluster) -> None:
    worker = cluster.workers["light-0"]
    WorkerInternals(worker).hold("nobody", "needs it")
    assert "nobody" in worker.data
    await cluster.until(lambda: "nobody" not in worker.data and "nobody" not in worker.state.tasks)


async def test_a_plugin_that_is_told_of_processing_sends_before_the_task(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    """A result that arrives after the task that needs it would have been asked for already."""
    source, target = cluster.workers["light-0"].address, cluster.workers["light-1"].address
    seen: list[tuple[str, list[str]]] = []

    class Watch(SchedulerPlugin):
        name = "test-watch"

        def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
            if key == "needs" and finish == "processing":
                task = dask.task("needs")
                assert task is not None
                seen.append(dask.lacking(task))
                comm = cluster.scheduler.stream_comms[target]
                seen.append(("buffer", [str(m.get("key")) for m in comm.buffer if m["op"] == "compute-task"]))

    cluster.scheduler.add_plugin(Watch())
    given = cluster.client.submit(str, "given", key="given", workers=[source])
    await given
    assert await cluster.client.submit(len, given, key="needs", workers=[target]) == 5
    assert seen == [(target, ["given"]), ("buffer", [])]


async def test_the_worker_that_runs_a_task_is_known(cluster: InProcessCluster, dask: SchedulerInternals) -> None:
    worker, other = cluster.workers["light-0"].address, cluster.workers["light-1"].address
    future = cluster.client.submit(asyncio.sleep, 3600, key="long", workers=[worker])
    await cluster.until(lambda: dask.is_run_by("long", worker))
    assert not dask.is_run_by("long", other)
    assert not dask.is_run_by("unknown", worker)
    await future.cancel()
    await cluster.until(lambda: not dask.is_run_by("long", worker))


async def test_clients_that_fetch_can_be_given_pickled_values(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    asked: list[Collection[str]] = []

    async def answer(keys: Collection[str], serializers: Any = None) -> dict[str, Any]:
        asked.append(keys)
        return {"status": "OK", "data": {key: dask.pickled(pickle.dumps(["opened"])) for key in keys}}

    future = cluster.client.submit(str, "stock", key="answered")
    await future
    dask.answer_fetches(answer)
    try:
        assert await cluster.client.gather(future) == ["opened"]
        assert await cluster.client.gather(future) == ["opened"]
        assert len(asked) == 2
        assert (await dask.fetch(["answered"], None))["status"] == "OK"
    finally:
        dask.answer_fetches(None)
    assert await cluster.client.gather(future) == "stock"


async def test_workers_remember_nothing_that_they_sent(cluster: InProcessCluster) -> None:
    worker = cluster.workers["light-0"]
    worker.batched_stream.recent_message_log = deque(maxlen=10)
    await cluster.client.submit(str, "remembered", workers="light-0")
    assert worker.batched_stream.recent_message_log
    keep_no_messages(WorkerInternals(worker).stream)
    await cluster.client.submit(str, "forgotten", workers="light-0")
    assert not worker.batched_stream.recent_message_log


async def test_what_a_plugin_tells_a_client_of_a_result_comes_before_the_news(
    cluster: InProcessCluster, dask: SchedulerInternals
) -> None:
    """A client waits for the news, and looks then for what came."""
    client, seen = cluster.client, list[str]()

    class Tell(SchedulerPlugin):
        name = "test-tell"

        def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
            if key == "told" and finish == "memory":
                task = dask.task("told")
                assert task is not None
                assert dask.wanted_by(task) == [client.id]
                dask.tell_client(client.id, {"op": "test-told", "key": key})
                dask.tell_client("a client that has gone", {"op": "test-told", "key": key})

    internals.listen(client, "test-told", lambda key: seen.append(client.futures[key].status))
    cluster.scheduler.add_plugin(Tell())
    future = client.submit(str, "value", key="told")
    assert internals.holds(client, "told")
    assert await internals.ended(future)
    assert seen == ["pending"]
    assert not internals.holds(client, "another")


async def test_a_client_hears_of_a_result_that_is_lost_before_its_future_waits_again(
    cluster: InProcessCluster,
) -> None:
    client, seen = cluster.client, list[tuple[str, str]]()
    internals.listen_for_losses(client, lambda key: seen.append((key, client.futures[key].status)))
    future = client.submit(str, "value", key="lost")
    assert await internals.ended(future)
    (holder,) = cluster.scheduler.tasks["lost"].who_has
    await cluster.scheduler.remove_worker(holder.address, stimulus_id="test")
    await cluster.until(lambda: seen == [("lost", "finished")])
    assert await future == "value"


async def test_the_end_of_a_task_without_a_result_is_none(cluster: InProcessCluster) -> None:
    failed = cluster.client.submit(int, "none")
    assert not await internals.ended(failed)
    cancelled = cluster.client.submit(asyncio.sleep, 60)
    await cancelled.cancel()
    assert not await internals.ended(cancelled)


async def test_a_result_is_fetched_in_a_message_of_its_own(cluster: InProcessCluster) -> None:
    future = cluster.client.submit(str, "alone")
    assert await internals.ended(future)
    assert await internals.fetched_alone(future) == "alone"


async def test_a_result_that_is_lost_before_it_is_fetched_is_made_anew(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(keys: Collection[str]) -> dict[str, Any]:
        return {"status": "error", "keys": list(keys)}

    future = cluster.client.submit(str, "alone")
    assert await internals.ended(future)
    with monkeypatch.context() as patched:
        patched.setitem(cluster.scheduler.handlers, "gather", lost)
        asked = asyncio.ensure_future(internals.fetched_alone(future))
        await asyncio.sleep(0.1)
    assert await asked == "alone"


async def test_tasks_are_submitted_with_the_priorities_of_their_order(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(**_: Any) -> None:
        raise AssertionError("Dask works out an order")

    monkeypatch.setattr("dask.order.order", search)
    graph = {
        "late": Task("late", str, TaskRef("early")),
        "early": Task("early", str, "a"),
        "other": Task("other", str, 1),
    }
    one, other, same = internals.submit(cluster.client, graph, ["late", "other", "late"])
    assert one is same
    assert await cluster.client.gather([one, other]) == ["a", "1"]
    tasks = cluster.scheduler.tasks
    assert tasks["late"].priority < tasks["other"].priority
    one.release()
    other.release()
    await cluster.until(lambda: not {"late", "early", "other"} & set(tasks))


async def test_messages_of_clients_and_workers_are_not_measured_and_follow_at_once(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = list[Any]()
    monkeypatch.setattr(comm_utils, "safe_sizeof", lambda message, **_: measured.append(message) or 1)

    def graphs() -> int:
        return sum("update-graph" in str(message) for message in measured)

    def ends() -> int:
        return sum("task-finished" in str(message) for message in measured)

    client, worker = cluster.client, cluster.workers["light-0"]
    worker.batched_stream.comm.allow_offload = True
    assert await client.submit(str, "stock", workers="light-0") == "stock"
    assert (graphs(), ends()) == (1, 1)
    internals.write_promptly(client, 0.003)
    measure_no_messages(WorkerInternals(worker).stream)
    assert client.scheduler_comm.interval == 0.003
    assert await client.submit(str, "ours", workers="light-0") == "ours"
    assert (graphs(), ends()) == (1, 1)


async def test_a_graph_that_cannot_be_sent_is_refused_before_anything_is_sent(cluster: InProcessCluster) -> None:
    graph = {"whole": Task("whole", str, 1), "torn": Task("torn", str, (n for n in "ab"))}
    with pytest.raises(TokenizationError):
        internals.submit(cluster.client, graph, ["whole", "torn"])
    assert "whole" not in cluster.scheduler.tasks


async def test_a_client_has_another_connection_after_each_loss(cluster: InProcessCluster) -> None:
    client = cluster.client
    first = internals.connection(client)
    assert first is internals.connection(client)
    first.comm.abort()
    await cluster.until(lambda: client.status == "running" and internals.connection(client) not in (first, None))
