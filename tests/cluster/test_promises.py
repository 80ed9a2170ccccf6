"""Inputs that are still to be computed: futures, delayed values, collections and other workflows."""

from __future__ import annotations

import asyncio
from typing import Any

import dask
import pytest
from dask import bag
from distributed import CancelledError

import dask_fmware as fm
from dask_fmware.errors import WorkflowError
from tests.cluster.flows import small


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def about(document, question="Why?"):
    return small("{question} {document}", question=question, document=document, max_tokens=8, name="about")


@fm.workflow
def title(text):
    return small("Title of {text}", text=text, max_tokens=8, name="title")


@fm.task
def joined(parts: Any) -> str:
    return "|".join(part if isinstance(part, str) else part.text for part in parts)


@fm.workflow
def titles(texts):
    return joined(fm.map(lambda text: small("Title of {text}", text=text, max_tokens=8, name="title"), texts))


@fm.workflow
def by_kind(kind):
    return fm.switch(kind, a=lambda: small("A", name="a"), b=lambda: small("B", name="b"))


def load(name: str) -> str:
    return f"text of {name}"


def no_such(name: str) -> str:
    raise FileNotFoundError(name)


async def test_a_future_is_an_input_though_nobody_else_holds_it(serving: Any) -> None:
    async with serving() as cluster:
        future = cluster.client.compute(about(cluster.client.submit(load, "one")))
        await future
        assert cluster.requests("Why? text of one") == 1
        report = await fm.report(future)
        assert report.data.state == "finished"
        assert [call.node for call in report.data.calls] == ["about"]
        future.release()


@pytest.mark.parametrize("is_future", [True, False], ids=["run", "to be run"])
async def test_the_answer_of_a_workflow_is_the_input_of_another(serving: Any, is_future: bool) -> None:
    async with serving(rules=[{"when": "Title of x", "text": "The X"}]) as cluster:
        future = cluster.client.compute(about(cluster.client.compute(title("x")) if is_future else title("x")))
        await future
        assert cluster.requests("Why? The X") == 1
        reports = await fm.reports(cluster.client)
        assert {report.data.workflow: report.data.state for report in reports} == {
            "title": "finished",
            "about": "finished",
        }
        future.release()


async def test_a_list_may_hold_promises_beside_values(serving: Any) -> None:
    async with serving() as cluster:
        submitted, delayed = cluster.client.submit(load, "one"), dask.delayed(load)("three")
        future = cluster.client.compute(titles([submitted, "two", delayed]))
        del submitted  # nobody else holds it
        await future
        for text in ("text of one", "two", "text of three"):
            assert cluster.requests(f"Title of {text}") == 1
        assert cluster.requests() == 3
        future.release()


async def test_a_collection_is_computed_first(serving: Any) -> None:
    async with serving() as cluster:
        future = cluster.client.compute(titles(bag.from_sequence(["u", "v", "w"], npartitions=2).map(load)))
        await future
        assert cluster.requests("Title of text of") == 3
        future.release()


async def test_a_switch_on_a_promise_takes_one_branch(serving: Any) -> None:
    async with serving() as cluster:
        future = cluster.client.compute(by_kind(dask.delayed("b")))
        await future
        report = await fm.report(future)
        assert {call.node: call.state for call in report.data.calls} == {"a": "skipped", "b": "finished"}
        assert cluster.requests() == 1
        future.release()


async def test_what_the_promise_raised_is_the_error_of_the_run(serving: Any) -> None:
    async with serving() as cluster:
        future = cluster.client.compute(about(cluster.client.submit(no_such, "one")))
        with pytest.raises(FileNotFoundError, match="one"):
            await future
        report = await fm.report(future)
        assert (report.data.state, cluster.requests()) == ("failed", 0)
        future.release()


async def test_a_promise_that_no_node_uses_is_not_waited_for_and_leaves_nothing(serving: Any) -> None:
    @fm.workflow
    def plain(question, context=None):
        return small("{question}", question=question, max_tokens=8, name="answer")

    async with serving("small") as cluster:
        future = cluster.client.compute(plain("x", context=cluster.client.submit(no_such, "one")))
        assert (await future).model == "small"
        future.release()


async def test_a_promise_that_was_cancelled_cancels_the_run(serving: Any) -> None:
    async with serving() as cluster:
        promise = cluster.client.submit(load, "one")
        await promise
        bound = about(promise)
        await cluster.client.cancel(promise)
        future = cluster.client.compute(bound)
        with pytest.raises((CancelledError, asyncio.CancelledError)):
            await asyncio.wait_for(future.result(), 30)
        assert cluster.requests() == 0
        future.release()


def test_a_promise_needs_no_cluster() -> None:
    @fm.workflow
    def joining(texts):
        return joined(texts)

    assert joining([dask.delayed(load)("one"), "two"]).compute() == "text of one|two"


async def test_a_workflow_within_another_collection_is_an_error_and_its_future_is_not(serving: Any) -> None:
    async with serving("small") as cluster:
        later = cluster.client.compute(dask.delayed(lambda answer: answer.model)(cluster.client.compute(title("x"))))
        assert await later == "small"
        for made in (dask.delayed(str)(title("x")), dask.delayed(max)(title("x"), title("y"))):
            broken = cluster.client.compute(made)
            with pytest.raises(WorkflowError, match=r"delayed\(f\)\(client\.compute\(bound\)\)"):
                await asyncio.wait_for(broken, 30)
            broken.release()
        later.release()
