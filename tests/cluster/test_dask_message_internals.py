"""What we rely on in Dask where messages travel, without a promise, one test for each thing."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from dask_fmware.client.dask_internals import write_promptly
from dask_fmware.streams import PromptSend, send_promptly
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from dask_fmware_workers.dask_internals import WorkerInternals


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


async def test_streams_are_made_prompt_while_they_run(cluster: InProcessCluster, dask: SchedulerInternals) -> None:
    worker, client = cluster.workers["light-0"], cluster.client
    scheduler = cluster.scheduler
    dask.tune(worker=worker.address, interval_s=0.001)
    dask.tune(client=client.id, interval_s=0.001)
    dask.tune(client="nobody", interval_s=0.001)
    send_promptly(WorkerInternals(worker).stream, 0.001)
    write_promptly(client, 0.001)
    streams = (
        scheduler.stream_comms[worker.address], scheduler.client_comms[client.id],
        worker.batched_stream, client.scheduler_comm,
    )  # fmt: skip
    await cluster.until(lambda: all(isinstance(stream, PromptSend) for stream in streams))
    assert [stream.interval for stream in streams] == [0.001] * 4
    before = [stream.batch_count for stream in streams]
    assert await client.submit(str, "prompt", workers="light-0") == "prompt"
    assert [stream.batch_count > count for stream, count in zip(streams, before, strict=True)] == [True] * 4


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
