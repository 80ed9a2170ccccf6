"""Small results travel with messages: nobody fetches them, nothing is left of them, and none is out of date."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import dask.config
import pytest
from distributed import Client

import dask_fmware as fm
from dask_fmware.client import arriving
from dask_fmware.client.arriving import ArrivedResults
from dask_fmware.client.dask_internals import ended
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler import carrier
from tests.cluster.flows import large, rag, small, where

LARGE = 100_000  # characters


@fm.task
def much(query: str) -> str:
    return "x" * LARGE + str(query)


@fm.workflow
def heavy(question):
    return much(small("{question}", question=question, max_tokens=4, name="call"))


@fm.workflow
def placed():
    return where()


@fm.workflow
def helps(question):
    """A run of which one branch is skipped."""
    intent = small("Intent of: {question}", question=question, choices=["order", "chat"], name="intent")
    return fm.switch(
        intent,
        order=lambda: large("Order {question}", question=question, max_tokens=8, name="order"),
        chat=lambda: small("Say {question}", question=question, max_tokens=8, name="chat"),
    )


@fm.task
def says() -> str:
    return os.environ["TO_SAY"]


@fm.workflow
def said():
    return says()


def fetches(cluster: InProcessCluster) -> int:
    """How often workers were asked for results."""
    return sum(worker.transfer_outgoing_count_total for worker in cluster.workers.values())


@pytest.fixture
async def cluster() -> Any:
    """Two models on a replica each, and two light workers."""
    async with InProcessCluster(deployment("small", "large", light_workers=2), validate=True) as cluster:
        yield cluster


async def known(cluster: InProcessCluster) -> None:
    """Wait until each worker has said that it understands such messages."""
    await cluster.until(lambda: len(cluster.router.carrier._takers) == len(cluster.workers))


@pytest.mark.parametrize("flow", [rag, helps])
async def test_small_results_are_fetched_from_no_worker(cluster: InProcessCluster, flow: Any) -> None:
    await known(cluster)
    before = fetches(cluster)
    answer = await cluster.client.compute(flow(question="What is Dask?"))
    assert answer.text
    assert fetches(cluster) == before


async def test_a_result_is_what_it_is_without_being_carried(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await known(cluster)
    carried = await cluster.client.compute(rag(question="What is Dask?"))
    monkeypatch.setattr(carrier, "LIMIT_BYTES", 0)
    before = fetches(cluster)
    fetched = await cluster.client.compute(rag(question="What is Dask?"))
    assert fetches(cluster) > before
    assert (fetched.text, fetched.value, fetched.usage) == (carried.text, carried.value, carried.usage)


async def test_large_results_are_fetched(cluster: InProcessCluster) -> None:
    await known(cluster)
    before = fetches(cluster)
    future = cluster.client.compute(heavy(question="What is Dask?"))
    assert len(await future) > LARGE
    assert fetches(cluster) > before


async def test_some_of_a_fetch_are_carried_and_some_are_not(cluster: InProcessCluster) -> None:
    await known(cluster)
    client = cluster.client
    one = client.compute(rag(question="What is Dask?"))
    other = client.submit(str, "not of a workflow")
    answer, text = await client.gather([one, other])
    assert answer.text
    assert text == "not of a workflow"


async def test_results_of_runs_that_came_together_stay_where_they_are_made(cluster: InProcessCluster) -> None:
    """They are fetched together; what a step needs of another one is carried."""
    await known(cluster)
    taken, take = list[str](), cluster.router.carrier._dask.is_run_by

    def noted(key: str, worker: str) -> bool:
        taken.append(key.split("-")[0])
        return take(key, worker)

    cluster.router.carrier._dask.is_run_by = noted  # type: ignore[method-assign]
    runs = [rag(question=f"{n}?") for n in range(4)]
    output = runs[0].__dask_keys__()[0].split("-")[0]
    answers = await cluster.client.gather(cluster.client.compute(runs))
    assert all(answer.text for answer in answers)
    assert taken
    assert output not in taken
    assert (await cluster.client.compute(rag(question="alone?"))).text
    assert output in taken


async def test_a_result_that_another_run_waits_for_is_carried_even_if_it_came_among_others(
    cluster: InProcessCluster,
) -> None:
    await known(cluster)
    first = rag(question="What is Dask?")
    before = fetches(cluster)
    answers = await cluster.client.gather(cluster.client.compute([rag(question=first), first]))
    assert all(answer.text for answer in answers)
    assert fetches(cluster) <= before + 2  # of two replicas, by the scheduler that gathers for the client


async def test_nothing_is_left_of_results_that_are_released(cluster: InProcessCluster) -> None:
    client = cluster.client
    futures = [client.compute(flow(question=f"{n}?")) for n in range(4) for flow in (rag, heavy)]
    await client.gather(futures)
    assert len(cluster.router.carrier) >= 4  # what is large is not there
    for future in futures:
        future.release()
    await cluster.settled()
    assert cluster.router.carrier._bytes == 0


async def test_a_result_that_is_made_anew_is_not_the_one_that_was_lost(cluster: InProcessCluster) -> None:
    client = cluster.client
    future = client.compute(placed())
    first = await future
    await cluster.workers[first].close()
    await cluster.until(lambda: cluster.scheduler.tasks[future.key].state == "memory")
    assert await future == next(name for name in ("light-0", "light-1") if name != first)


async def test_a_run_goes_on_with_a_result_whose_worker_has_gone(cluster: InProcessCluster) -> None:
    """Dask makes it again, and what is used is the one that was made last."""
    client = cluster.client
    futures = client.compute([rag(question=f"{n}?") for n in range(20)])
    await cluster.workers["light-0"].close()
    assert all(answer.text for answer in await client.gather(futures))


async def test_the_oldest_go_when_there_are_too_many(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "LIMIT_BYTES", 2000)
    client = cluster.client
    futures = [client.compute(rag(question=f"{n}?")) for n in range(20)]
    answers = await client.gather(futures)
    assert all(answer.text for answer in answers)
    assert 0 < len(cluster.router.carrier) < 20
    assert cluster.router.carrier._bytes <= 2000


async def test_clients_that_do_not_pickle_are_answered_by_dask(cluster: InProcessCluster) -> None:
    with dask.config.set({"distributed.comm.compression": None}):
        async with Client(
            cluster.scheduler.address, asynchronous=True, set_as_default=False, serializers=["dask", "pickle"]
        ) as other:
            assert (await other.compute(rag(question="What is Dask?"))).text
    answer = await cluster.router.carrier.fetch(["unknown"], serializers=["msgpack"])
    assert answer["status"] == "error"


async def test_dask_fetches_again_once_the_runtime_is_uninstalled(cluster: InProcessCluster) -> None:
    client = cluster.client
    future = client.compute(rag(question="What is Dask?"))
    text = (await future).text
    await fm.uninstall(client)
    assert cluster.scheduler.handlers["gather"] == cluster.scheduler.gather
    assert (await client.gather(future)).text == text


async def session(cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch) -> tuple[fm.Session, list[Any]]:
    """A session whose client the scheduler sends results to, and the fetches from then on."""
    monkeypatch.setenv("TO_SAY", "one")
    made, fetched = fm.Session(cluster.client), list[Any]()
    await made.run(rag(question="What is Dask?"))
    await cluster.until(lambda: cluster.client.id in cluster.router.carrier._askers)
    fetch = cluster.router.carrier.fetch

    async def counted(keys: Any, serializers: Any = None) -> Any:
        fetched.extend(keys)
        return await fetch(keys, serializers)

    monkeypatch.setitem(cluster.scheduler.handlers, "gather", counted)
    return made, fetched


async def test_results_of_a_session_come_with_the_news_of_them(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, fetched = await session(cluster, monkeypatch)
    answers = await asyncio.gather(*(served.run(rag(question=f"{n}?")) for n in range(4)))
    assert all(isinstance(answer, fm.Completion) and answer.text for answer in answers)
    assert (await served.outcome(helps(question="What is Dask?"))).value.text
    future = await served.submit(helps(question="What is Dask?"))
    assert (await served.outcome(future)).value.text
    arrived = ArrivedResults.of(cluster.client)
    await cluster.until(lambda: list(arrived._values) == [future.key])
    arrived.release(future)
    assert fetched == []
    assert len(await served.run(heavy(question="What is Dask?"))) > LARGE
    assert len(fetched) == 1
    await cluster.settled()
    assert arrived._values == {}


async def test_a_run_that_is_asked_for_again_has_the_result_of_its_second_time(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, fetched = await session(cluster, monkeypatch)
    bound = said()
    future = await served.submit(bound)
    assert (await served.outcome(future)).value == "one"
    future.release()
    await cluster.settled()
    monkeypatch.setenv("TO_SAY", "x" * LARGE)
    assert await served.run(bound) == "x" * LARGE
    assert len(fetched) == 1


async def test_runs_that_are_done_with_are_released_together_and_those_that_failed_at_once(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _ = await session(cluster, monkeypatch)
    await cluster.settled()
    monkeypatch.setattr(arriving, "RELEASE_S", 0.2)
    released: list[int] = []
    let_go = ArrivedResults._let_go
    monkeypatch.setattr(ArrivedResults, "_let_go", lambda self, done: released.append(len(done)) or let_go(self, done))
    assert [await served.run(said()) for _ in range(3)] == ["one"] * 3
    await cluster.until(lambda: released)
    assert released == [3]
    await cluster.settled()
    monkeypatch.delenv("TO_SAY")
    bound = said()
    with pytest.raises(KeyError):
        await served.run(bound)
    assert released == [3, 1]
    monkeypatch.setenv("TO_SAY", "two")
    assert await served.run(bound) == "two"


async def test_results_whose_futures_are_released_are_forgotten(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there were at once."""
    served, fetched = await session(cluster, monkeypatch)
    monkeypatch.setattr(arriving, "TIDY_S", 0.05)
    futures = await asyncio.gather(*(served.submit(said()) for _ in range(20)))
    assert all([await ended(future) for future in futures])
    arrived, kept = ArrivedResults.of(cluster.client), futures.pop()
    assert len(arrived._values) >= len(futures)
    for future in futures:
        future.release()
    await cluster.until(lambda: list(arrived._values) == [kept.key])
    assert (await served.outcome(kept)).value == "one"
    kept.release()
    await cluster.until(lambda: arrived._values == {} and arrived._timer is None)
    assert fetched == []


async def test_a_result_that_was_lost_is_not_what_a_session_returns(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made anew it is large here, and does not come by itself."""
    served, fetched = await session(cluster, monkeypatch)
    future = await served.submit(said())
    assert (await served.outcome(future)).value == "one"
    monkeypatch.setenv("TO_SAY", "x" * LARGE)
    (holder,) = cluster.scheduler.tasks[future.key].who_has
    await next(worker for worker in cluster.workers.values() if worker.address == holder.address).close()
    task = cluster.scheduler.tasks[future.key]
    await cluster.until(lambda: holder not in (task.who_has or {holder}) and future.status == "finished")
    assert (await served.outcome(future)).value == "x" * LARGE
    assert fetched == [future.key]
    future.release()


async def test_a_runtime_that_is_installed_anew_is_asked_again(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _ = await session(cluster, monkeypatch)
    await fm.uninstall(cluster.client)
    await fm.install(cluster.client, deployment("small", "large", light_workers=2))
    await fm.wait_ready(cluster.client)
    monkeypatch.setattr(arriving, "AGAIN_S", 0.0)
    assert len(await served.run(heavy(question="What is Dask?"))) > LARGE  # which never comes by itself
    assert cluster.router.carrier._askers == set()
    assert [await served.run(said()) for _ in range(2)] == ["one"] * 2
    await cluster.until(lambda: cluster.client.id in cluster.router.carrier._askers)


async def test_sessions_that_threads_make_at_once_share_what_arrives(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "listen", lambda *_: time.sleep(0.05))
    made = await asyncio.gather(*(asyncio.to_thread(ArrivedResults.of, cluster.client) for _ in range(4)))
    assert len(set(made)) == 1


async def test_a_client_that_connects_again_asks_again(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _ = await session(cluster, monkeypatch)
    cluster.router.remove_client(cluster.scheduler, cluster.client.id)
    assert await served.run(said()) == "one"
    assert cluster.router.carrier._askers == set()
    ArrivedResults.of(cluster.client)._connection = "the one that was lost"
    assert await served.run(said()) == "one"
    await cluster.until(lambda: cluster.client.id in cluster.router.carrier._askers)


async def test_a_run_that_failed_raises_its_error(cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    served, fetched = await session(cluster, monkeypatch)
    monkeypatch.delenv("TO_SAY")
    with pytest.raises(KeyError):
        await served.run(said())
    assert fetched == []


class Wire:
    """As much of Dask as the carrier uses."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.needs: tuple[str, list[str]] = ("worker", ["a"])

    def answer_fetches(self, answer: Any) -> None:
        pass

    def is_run_by(self, key: str, worker: str) -> bool:
        return worker == "maker"

    def lacking(self, task: Any) -> tuple[str, list[str]]:
        return self.needs

    def send(self, worker: str, message: dict[str, Any]) -> None:
        self.sent.append((worker, message["key"]))


def test_a_worker_that_has_not_announced_itself_is_sent_none() -> None:
    """A worker without a model host does not know the message and would close its stream."""
    wire: Any = Wire()
    carries = carrier.Carrier(wire)
    carries.take(carrier.Carried("a", b"1"), "maker")
    carries.send_ahead(None)
    assert wire.sent == []
    carries.worker_came("worker")
    carries.take(carrier.Carried("of another", b"2"), "worker")  # which does not run that task
    assert len(carries) == 1
    carries.send_ahead(None)
    assert wire.sent == [("worker", "a")]
    carries.worker_left("worker")
    carries.send_ahead(None)
    assert wire.sent == [("worker", "a")]
