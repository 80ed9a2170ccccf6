"""Runs of a session reach the scheduler in a message of ours, where it takes one; else as a graph of Dask."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import dask
import pytest
from dask._task_spec import Task
from dask.tokenize import TokenizationError
from distributed import CancelledError, Future

import dask_fmware as fm
from dask_fmware.client import arriving, dask_internals
from dask_fmware.client.arriving import ArrivedResults
from dask_fmware.model.messages import PROTOCOL_VERSION, RunsAsked
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.flows import rag

small = fm.Model("small")
GRAPH = "update-graph"


@fm.workflow
def ask(question):
    return small("{question}", question=question, max_tokens=4, name="answer")


class Torn:
    """What can be pickled and not opened."""

    def __reduce__(self) -> Any:
        return _opened, ()


def _opened() -> Any:
    raise ImportError("no module named 'here_alone'")


@fm.task
def about(document):
    return "about"


@fm.workflow
def described(document):
    return about(document)


def until_told() -> None:
    while "GO_ON" not in os.environ:
        time.sleep(0.01)


@fm.task
async def check(text):
    if text == "bad":
        raise ValueError("not this one")
    await asyncio.to_thread(until_told)
    return text


@fm.workflow
def checked(texts):
    return fm.map(check, texts)


@fm.workflow
def refined(text):
    return fm.loop(lambda draft: small("{draft}", draft=draft, max_tokens=4), text, max_iterations=3)


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessCluster]:
    async with InProcessCluster(deployment("small", "large"), validate=True) as cluster:
        yield cluster
        await cluster.settled()


@pytest.fixture
async def came(cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many messages with runs the scheduler gets of each kind, once the client knows that it takes ours."""
    counted: Counter[str] = Counter()
    handlers = cluster.scheduler.stream_handlers
    graph, runs = handlers[GRAPH], handlers[RunsAsked.op]

    async def came_as_graph(**fields: Any) -> None:
        counted[GRAPH] += 1
        await graph(**fields)

    def came_as_ours(**fields: Any) -> None:
        counted[RunsAsked.op] += 1
        runs(**fields)

    monkeypatch.setitem(handlers, GRAPH, came_as_graph)
    monkeypatch.setitem(handlers, RunsAsked.op, came_as_ours)
    arrived = ArrivedResults.of(cluster.client)
    await fm.Session(cluster.client).run(ask(question="who"))
    assert counted == {GRAPH: 1}
    await cluster.until(lambda: arrived.ask(cluster.client) is not None)
    counted.clear()
    return counted


async def test_the_same_answers_come_of_both_ways(cluster: InProcessCluster, came: Counter[str]) -> None:
    session = fm.Session(cluster.client)
    questions = [f"question {n}" for n in range(8)]
    answers = await asyncio.gather(*(session.run(rag(question=question)) for question in questions))
    assert came.keys() == {RunsAsked.op}
    assert [answer.text for answer in answers] == [
        (await cluster.client.compute(rag(question=question))).text for question in questions
    ]


async def test_tasks_have_the_same_places_in_the_order_and_annotations(
    cluster: InProcessCluster, came: Counter[str]
) -> None:
    session = fm.Session(cluster.client)

    async def submitted(**annotations: Any) -> Future:
        with dask.annotate(**annotations):
            return await session.submit(rag(question="why"))

    futures = await asyncio.gather(submitted(retries=2, priority=3), submitted())
    await asyncio.gather(*futures)
    first, second = (cluster.scheduler.tasks[future.key] for future in futures)
    assert came == {RunsAsked.op: 2}
    assert (first.annotations["retries"], first.retries, first.priority[0]) == (2, 2, -3)
    assert (second.annotations or {}, second.retries, second.priority[0]) == ({}, 0, 0)
    assert all(before.priority < first.priority for before in first.dependencies)
    for future in futures:
        future.release()


async def test_what_the_scheduler_cannot_open_fails(cluster: InProcessCluster, came: Counter[str]) -> None:
    there = ArrivedResults.of(cluster.client).ask(cluster.client)
    graph = {"sound": Task("sound", str, 1), "torn": Task("torn", str, Torn())}
    for future in dask_internals.submit(cluster.client, graph, ["sound", "torn"], over=there):
        with pytest.raises(ImportError, match="here_alone"):
            await asyncio.wait_for(future.result(), 30)
    assert came == {RunsAsked.op: 1}
    assert cluster.router.failures.pop(RunsAsked.op) == 1


async def test_what_cannot_be_pickled_is_refused_by_dask(cluster: InProcessCluster, came: Counter[str]) -> None:
    there = ArrivedResults.of(cluster.client).ask(cluster.client)
    graph = {"torn": Task("torn", str, (n for n in "ab"))}
    with pytest.raises(TokenizationError):
        dask_internals.submit(cluster.client, graph, ["torn"], over=there)
    assert not came


async def test_what_is_large_goes_as_a_graph(
    cluster: InProcessCluster, came: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_internals, "SMALL_BYTES", 5_000)
    assert await fm.Session(cluster.client).run(described(document="x" * 6_000)) == "about"
    assert came == {GRAPH: 1}


async def test_runs_whose_connection_is_lost_before_they_leave_are_lost(
    cluster: InProcessCluster, came: Counter[str]
) -> None:
    client, bound = cluster.client, described(document="x")
    there = ArrivedResults.of(client).ask(client)
    (future,) = dask_internals.submit(client, bound.__dask_graph__(), bound.__dask_keys__(), over=there)
    there.abort()
    with pytest.raises(CancelledError):
        await asyncio.wait_for(future.result(), 60)
    assert not came
    assert await fm.Session(client).run(described(document="y")) == "about"


async def test_rounds_of_a_loop_come_so_too_and_fetch_nothing(
    cluster: InProcessCluster, came: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rounds() -> Counter[str]:
        came.clear()
        await cluster.client.compute(refined(text="a"))
        return came

    for _ in range(20):  # each worker with a loop asks the scheduler first
        if await rounds() == {GRAPH: 1, RunsAsked.op: 3}:
            break

    async def fetched(fetch: Any) -> Any:
        raise AssertionError("a result was fetched")

    monkeypatch.setattr(arriving, "fetched", fetched)
    assert await rounds() == {GRAPH: 1, RunsAsked.op: 3}


async def test_an_item_of_a_map_that_fails_ends_it_while_others_are_under_way(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = cluster.client.compute(checked(texts=["slow", "bad"]))
    try:
        assert str(await asyncio.wait_for(future.exception(), 60)) == "not this one"
    finally:
        monkeypatch.setenv("GO_ON", "yes")
        future.release()
        await cluster.settled()


@pytest.mark.parametrize("answer", [PROTOCOL_VERSION - 1, None])
async def test_a_scheduler_that_does_not_speak_our_version_is_sent_graphs(
    cluster: InProcessCluster, came: Counter[str], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    asked: list[str] = []

    def greeted(client: str) -> Any:
        asked.append(client)
        return answer

    monkeypatch.setitem(cluster.scheduler.handlers, "fmware_greet", greeted)
    arrived = ArrivedResults.of(cluster.client)
    arrived._connection = "one that was lost"
    session = fm.Session(cluster.client)
    await session.run(ask(question="why"))
    await cluster.until(lambda: asked)
    await session.run(ask(question="where"))
    assert came == {GRAPH: 2}
