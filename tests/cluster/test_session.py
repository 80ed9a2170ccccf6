"""Many runs at once from one process, awaited one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import pytest
from distributed import Client, Future

import dask_fmware as fm
from dask_fmware.client.dask_internals import ended
from dask_fmware.errors import RuntimeFaultError, UnknownModelError, WorkflowError
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.flows import rag

small = fm.Model("small")


@fm.workflow(slo=fm.SLO(ttft_s=60))
def ask(question):
    return small("{question}", question=question, max_tokens=64, name="answer")


@fm.workflow
def about(document):
    return small("{document}", document=document)


@fm.workflow
def elsewhere(question):
    return fm.Model("unknown")("{question}", question=question)


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessCluster]:
    rules = [{"when": "engine-fault", "fault": "error"}]
    async with InProcessCluster(deployment("small", "large", rules=rules), validate=True) as cluster:
        yield cluster
        await cluster.settled()


async def test_each_caller_gets_its_own_answer(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)
    answers = await asyncio.gather(*(session.run(ask(question=f"question {n}")) for n in range(40)))
    assert [str(answer) for answer in answers] == [
        str(await cluster.client.compute(ask(question=f"question {n}"))) for n in range(40)
    ]


async def test_outcomes_have_reports_and_errors(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)
    good, bad = await asyncio.gather(
        session.outcome(ask(question="why")), session.outcome(ask(question="engine-fault"))
    )
    assert good.error is None
    assert good.report.state == "finished"
    assert good.report.run_id == good.run_id
    assert bad.value is None
    assert isinstance(bad.error, fm.FMwareError)
    assert bad.report.state == "failed"
    with pytest.raises(type(bad.error)):
        await session.run(ask(question="engine-fault"))


async def test_a_run_that_cannot_be_run_fails_alone(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)
    made = await asyncio.gather(
        session.run(ask(question="why")), session.run(elsewhere(question="why")), return_exceptions=True
    )
    assert isinstance(made[0], fm.Completion)
    assert isinstance(made[1], UnknownModelError)


async def test_a_caller_that_is_cancelled_cancels_its_run() -> None:
    async with InProcessCluster(deployment("small", token_s=0.5), validate=True) as cluster:
        session = fm.Session(cluster.client)
        task = asyncio.ensure_future(session.run(ask(question="why")))
        await cluster.until(lambda: any(state.running for state in cluster.router.machine.fleet))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await cluster.settled()


@pytest.mark.parametrize("method", ["run", "outcome"])
async def test_a_run_that_has_no_time_left_is_cancelled_and_its_error_names_it(method: str) -> None:
    async with InProcessCluster(deployment("small", token_s=0.5), validate=True) as cluster:
        session, bound = fm.Session(cluster.client), ask(question="why")
        with pytest.raises(TimeoutError, match=rf"^run {bound.run_id} of workflow 'ask' has not ended within 0.2 s"):
            await getattr(session, method)(bound, timeout=0.2)
        await cluster.settled()  # nothing of it runs, waits or is kept


async def test_who_waits_for_a_run_of_his_own_no_longer_keeps_it() -> None:
    async with InProcessCluster(deployment("small", token_s=0.02), validate=True) as cluster:
        session = fm.Session(cluster.client)
        future = await session.submit(ask(question="why"))
        with pytest.raises(TimeoutError, match=rf"^run {str(future.key)[-32:]} has not ended .* and goes on"):
            await session.outcome(future, timeout=0.001)
        assert (await session.outcome(future, timeout=60)).report.state == "finished"
        assert cluster.requests() == 1
        future.release()
        await cluster.settled()


@fm.task
def late(text):
    raise TimeoutError("the database is slow")


@fm.workflow
def asking_late(text):
    return late(text)


async def test_a_timeout_of_plain_code_is_raised_as_it_is(cluster: InProcessCluster) -> None:
    with pytest.raises(TimeoutError, match=r"^the database is slow"):
        await fm.Session(cluster.client).run(asking_late("a"), timeout=60)


@pytest.mark.parametrize(
    ("timeout", "error", "why"),
    [
        (0, ValueError, "fm.Session.run: timeout=0 is not above 0 s; leave it out"),
        (float("nan"), ValueError, "timeout=nan is not above 0 s"),
        ("5s", TypeError, "timeout='5s' is no number of seconds"),
        (True, TypeError, "timeout=True is no number of seconds"),
    ],
)
async def test_a_timeout_that_is_none_is_refused_before_anything_is_submitted(
    cluster: InProcessCluster, timeout: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        fm.Session(cluster.client).run(ask(question="why"), timeout=timeout)
    assert not cluster.scheduler.tasks


async def test_a_run_that_somebody_else_cancels_is_not_taken_for_a_lost_scheduler() -> None:
    async with InProcessCluster(deployment("small", token_s=0.5), validate=True) as cluster:
        session = fm.Session(cluster.client)
        tasks = [asyncio.ensure_future(method(ask(question="why"))) for method in (session.run, session.outcome)]
        await cluster.until(lambda: sum(len(state.running) for state in cluster.router.machine.fleet) == 2)
        async with Client(cluster.scheduler.address, asynchronous=True, set_as_default=False) as other:
            await other.cancel([Future(key, other) for key in list(cluster.scheduler.tasks)], force=True)
            for task in tasks:
                with pytest.raises(RuntimeFaultError, match="was cancelled, by another client"):
                    await task
        await cluster.settled()


async def test_a_lost_scheduler_is_said() -> None:
    with dask.config.set({"distributed.comm.timeouts.connect": "500ms"}):
        async with InProcessCluster(deployment("small", token_s=0.5)) as cluster:
            session = fm.Session(cluster.client)
            tasks = [asyncio.ensure_future(session.run(ask(question=f"{n}"))) for n in range(3)]
            await cluster.until(lambda: any(state.running for state in cluster.router.machine.fleet))
            await cluster.scheduler.close()
            ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
            assert [type(error) for error in ended] == [RuntimeFaultError] * 3
            assert all("was lost" in str(error) for error in ended)
            with pytest.raises(RuntimeFaultError, match="was lost"):
                await asyncio.wait_for(session.run(ask(question="later")), 30)


async def test_what_is_asked_of_a_client_that_closes_says_so(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then it has let go of its futures: a run that is still given to it would be awaited for ever."""
    async with Client(cluster.scheduler.address, asynchronous=True, set_as_default=False) as other:
        session, close, said = fm.Session(other), other.rpc.close, list[BaseException]()
        await session.run(ask(question="why"))

        async def late() -> None:
            asked = session.run(ask(question="late")), session.outcome(ask(question="late"))
            said.extend(await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10))
            await close()

        monkeypatch.setattr(other.rpc, "close", late)
    assert [type(error) for error in said] == [RuntimeFaultError] * 2
    assert all("the client is closed" in str(error) for error in said)


async def test_a_session_says_that_its_client_was_closed(cluster: InProcessCluster) -> None:
    """Before its first run, and between the end of a run and its report."""
    async with Client(cluster.scheduler.address, asynchronous=True, set_as_default=False) as other:
        unused = fm.Session(other)
    with pytest.raises(RuntimeFaultError, match="the client is closed"):
        await unused.run(ask(question="why"))
    async with Client(cluster.scheduler.address, asynchronous=True, set_as_default=False) as other:
        session = fm.Session(other)
        result = session._arrived.result

        async def then_closed(future: Future) -> Any:
            value = await result(future)
            await other.close()
            return value

        session._arrived.result = then_closed  # type: ignore[method-assign]
        with pytest.raises(RuntimeFaultError, match="the client is closed"):
            await session.outcome(ask(question="why"))


async def test_the_future_of_another_client_is_refused(cluster: InProcessCluster) -> None:
    """Where its client has a loop of its own, it looked like a run that had failed."""
    session = fm.Session(cluster.client)
    async with Client(cluster.scheduler.address, asynchronous=True, set_as_default=False) as other:
        future = other.compute(ask(question="why"))
        with pytest.raises(TypeError, match="a future of the client that its session was made with"):
            await session.outcome(future)
        assert (await fm.Session(other).outcome(future)).error is None
        future.release()


@pytest.mark.cluster
def test_threads_whose_client_is_closed_are_told_so() -> None:
    with (
        fm.LocalModelCluster(deployment("small", token_s=0.5), dashboard_address=None, processes=False) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,  # with a loop of its own
    ):
        fm.wait_ready(client)
        session, under_way = fm.Session(client), threading.Event()
        made = session._submitted.made

        async def noted(asked: Any) -> Any:
            under_way.set()
            return await made(asked)

        session._submitted.made = noted  # type: ignore[method-assign]
        with ThreadPoolExecutor(1) as threads:
            run = threads.submit(session.run, ask(question="why"))
            assert under_way.wait(10)
            client.status = "closing"
            client.loop.add_callback(lambda: [task.cancel() for task in asyncio.all_tasks() if "Session" in repr(task)])
            with pytest.raises(RuntimeFaultError, match="the client is closed"):
                run.result(10)
        client.status = "running"


def test_threads_share_a_session_with_a_synchronous_client() -> None:
    with (
        fm.LocalModelCluster(deployment("small", "large"), dashboard_address=None, processes=False) as cluster,
        Client(cluster) as client,
    ):
        fm.wait_ready(client)
        session = fm.Session(client)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda n: session.run(rag(question=f"{n}")), range(16)))
        assert len(answers) == 16
        assert session.outcome(rag(question="why")).report.met is not False
        with pytest.raises(TimeoutError, match="of workflow 'rag' has not ended within 1e-05 s"):
            session.run(rag(question="late"), timeout=1e-5)
        assert session.outcome(rag(question="later"), timeout=60).error is None


@fm.task
def connect(answer):
    raise ConnectionRefusedError("nobody answers at the database")


@fm.workflow
def connecting(question):
    return connect(small("{question}", question=question))


async def test_what_plain_code_raises_is_not_taken_for_a_lost_cluster(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)
    with pytest.raises(ConnectionRefusedError, match="database"):
        await session.run(connecting(question="why"))
    outcome = await session.outcome(connecting(question="why"))
    assert isinstance(outcome.error, ConnectionRefusedError)
    assert outcome.report.state == "failed"


async def test_a_lost_input_ends_no_run_of_another_caller(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)
    lost = cluster.client.submit(str, "document")
    await lost
    bound = about(document=lost)
    await cluster.client.cancel([lost])
    made = await asyncio.gather(session.run(bound), session.run(ask(question="why")), return_exceptions=True)
    assert isinstance(made[0], RuntimeFaultError)
    assert "the loss of an input" in str(made[0])
    assert isinstance(made[1], fm.Completion)


class Unreadable:
    """What cannot be made where it arrives, as where its module is missing."""

    def __getstate__(self) -> str:
        return "state"

    def __setstate__(self, state: str) -> None:
        raise ModuleNotFoundError("no such module here")


@fm.task
def first_of(documents):
    return documents[0]


@fm.workflow
def first(documents):
    return small("{document}", document=first_of(documents))


async def test_an_input_that_cannot_be_read_fails_its_run_alone(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)
    made = await asyncio.gather(
        session.run(first(documents=[Unreadable()])), session.run(ask(question="why")), return_exceptions=True
    )
    assert isinstance(made[0], ModuleNotFoundError)
    assert isinstance(made[1], fm.Completion)


@fm.task
def unreadable(text):
    return Unreadable()


@fm.task
def long(text):
    return text * 100_000


@fm.workflow
def written(text):
    return unreadable(text)


@fm.workflow
def read(text):
    return long(text)


async def test_a_result_that_cannot_be_read_is_an_error_of_its_own_caller_alone(cluster: InProcessCluster) -> None:
    """The client fetches the results that are waited for at one time in one message."""
    session = fm.Session(cluster.client)
    futures = [await session.submit(bound) for bound in (read("a"), written("b"), read("c"))]
    assert all([await ended(future) for future in futures])
    made = await asyncio.gather(*map(session.outcome, futures))
    assert [type(outcome.error) for outcome in made] == [type(None), ModuleNotFoundError, type(None)]
    assert [outcome.value and outcome.value[0] for outcome in made] == ["a", None, "c"]
    for future in futures:
        future.release()


async def test_annotations_are_those_of_the_caller(cluster: InProcessCluster) -> None:
    session = fm.Session(cluster.client)

    async def submitted(**annotations: int) -> Future:
        with dask.annotate(**annotations):
            return await session.submit(ask(question="why"))

    futures = await asyncio.gather(submitted(retries=2), submitted(), submitted(retries=2), submitted(retries=3))
    await asyncio.gather(*futures)
    found = [cluster.scheduler.tasks[future.key].annotations or {} for future in futures]
    assert [annotations.get("retries") for annotations in found] == [2, None, 2, 3]
    for future in futures:
        future.release()


async def test_a_run_that_two_callers_ask_for_is_cancelled_by_one_for_itself_alone() -> None:
    async with InProcessCluster(deployment("small", token_s=0.02), validate=True) as cluster:
        session = fm.Session(cluster.client)
        bound = ask(question="why")
        callers = [asyncio.ensure_future(session.run(bound)) for _ in range(2)]
        await cluster.until(cluster.requests)
        callers[0].cancel()
        assert isinstance(await callers[1], fm.Completion)
        assert cluster.requests() == 1
        await cluster.settled()


@fm.task
def give_up(text):
    raise asyncio.CancelledError


@fm.workflow
def giving_up(text):
    return give_up(text)


@fm.workflow
def giving_up_each(texts):
    return fm.map(give_up, texts)


@pytest.mark.parametrize("bound", [giving_up("a"), giving_up_each(["a", "b"])], ids=["alone", "in a map"])
async def test_plain_code_that_raises_a_cancellation_fails_alone(cluster: InProcessCluster, bound: Any) -> None:
    session = fm.Session(cluster.client)
    outcome = await session.outcome(bound)
    assert isinstance(outcome.error, WorkflowError)
    assert "node 'give_up': its function raised CancelledError" in str(outcome.error)
    assert isinstance(await session.run(ask(question="why")), fm.Completion)
