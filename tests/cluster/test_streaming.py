"""Answers read while they are generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import dask
import pytest
from distributed import Client

import dask_fmware as fm
from dask_fmware.client import stream as stream_module
from dask_fmware.errors import EngineError, NotInstalledError, StreamLostError
from dask_fmware.model.completion import Chunk
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.flows import fan, large, one, rag, small

WORDS = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 👩‍👩‍👧 日本語"
DRAFT, REFUSAL = "Take the second door on the left.", "I may not tell you that."


@fm.workflow
def on_large(prompt):
    return fm.Model("large")("{prompt}", prompt=prompt, max_tokens=8, name="answer")


async def _read(future: Any) -> list[str]:
    return await _rest(aiter(fm.stream(future)))


async def _rest(stream: Any) -> list[str]:
    return [chunk.text async for chunk in stream]


@fm.task
async def refuse(question: str) -> str:
    await asyncio.sleep(0.2)  # longer than the objective
    return REFUSAL


def guarded(refusing: Callable[[Any], Any]) -> Any:
    """A workflow whose draft a judge has to let pass."""

    @fm.workflow(slo=fm.SLO(ttft_s=0.1))
    def guarded(question):
        draft = large("{question}", question=question, max_tokens=24, name="draft")
        verdict = small("Is it safe? {draft}", draft=draft, choices=["yes", "no"], name="judge")
        return fm.switch(verdict, yes=lambda: draft, no=lambda: refusing(question))

    return guarded


def judged(verdict: str) -> list[dict[str, str]]:
    """Rules of engines by which a judge says so."""
    return [
        {"when": "Is it safe?", "text": verdict},
        {"when": "Decline", "text": REFUSAL},
        {"when": "Where", "text": DRAFT},
    ]


async def test_the_stream_begins_before_the_answer_is_done_and_adds_up_to_it(serving: Any) -> None:
    async with serving(rules=[{"when": "Answer", "text": WORDS}]) as cluster:
        engine = cluster.engines["large-cpu-1"]
        future = cluster.client.compute(rag(question="x"))
        engine.pause()
        stream = aiter(fm.stream(future))
        await cluster.until(lambda: engine.state().running == 1)
        engine.resume()
        pieces = [(await anext(stream)).text]
        pieces += [chunk.text async for chunk in stream]
        assert "".join(pieces) == (await future).text
        assert not any("\ufffd" in piece for piece in pieces)
        future.release()


async def test_pieces_come_while_the_engine_still_generates(serving: Any) -> None:
    async with serving("small", token_s=0.002) as cluster:
        future = cluster.client.compute(one("x"))
        stream = aiter(fm.stream(future))
        first = await anext(stream)
        assert not future.done()
        rest = [chunk.text async for chunk in stream]
        assert len(rest) > 3
        assert first.text + "".join(rest) == (await future).text
        future.release()


async def test_a_reader_that_comes_late_or_again_gets_everything(serving: Any) -> None:
    async with serving("small", text=WORDS) as cluster:
        future = cluster.client.compute(one("x"))
        await future
        assert "".join(await _read(future)) == WORDS
        stream = fm.stream(future)
        for _ in range(2):
            assert "".join([chunk.text async for chunk in stream]) == WORDS
        future.release()


async def test_two_readers_get_the_same_text(serving: Any) -> None:
    async with serving("small", token_s=0.001) as cluster:
        future = cluster.client.compute(one("x"))
        first, second = await asyncio.gather(_read(future), _read(future))
        assert "".join(first) == "".join(second) == (await future).text
        future.release()


async def test_a_slow_reader_misses_nothing(serving: Any) -> None:
    async with serving("small", token_s=0.001) as cluster:
        future = cluster.client.compute(one("x"))
        pieces = []
        async for chunk in fm.stream(future):
            pieces.append(chunk.text)
            if len(pieces) == 1:
                await future
        assert "".join(pieces) == (await future).text
        future.release()


async def test_a_reader_that_leaves_early_disturbs_nobody(serving: Any) -> None:
    async with serving("small", token_s=0.002) as cluster:
        future = cluster.client.compute(one("x"))
        async for _ in fm.stream(future):
            break
        assert (await future).usage.output_tokens == 64
        future.release()


async def test_a_workflow_that_ends_in_plain_code_gives_one_piece(serving: Any) -> None:
    async with serving("small", text="ab") as cluster:
        future = cluster.client.compute(fan(["x", "y"]))
        assert await _read(future) == ["['ab', 'ab']"]
        future.release()


async def test_a_draft_that_is_withheld_is_not_shown(serving: Any) -> None:
    async with serving(rules=judged("no")) as cluster:
        future = cluster.client.compute(guarded(refuse)("Where is it?"))
        assert await _read(future) == [REFUSAL] == [await future]
        report = await fm.report(future)
        assert report.data.first_token_at == report.data.finished_at  # and not the first one of the draft
        assert report.met is False
        future.release()


async def test_a_call_that_stands_in_for_a_draft_is_streamed_alone(serving: Any) -> None:
    decline = lambda question: large("Decline {question}", question=question, max_tokens=24, name="decline")  # noqa: E731
    async with serving(rules=judged("no")) as cluster:
        future = cluster.client.compute(guarded(decline)("Where is it?"))
        chunks = [chunk async for chunk in fm.stream(future)]
        assert "".join(map(str, chunks)) == REFUSAL == (await future).text
        report = await fm.report(future)
        calls = {call.node: call for call in report.data.calls}
        assert report.data.first_token_at == calls["decline"].last.first_token_at
        future.release()


async def test_a_draft_that_passes_comes_in_one_piece_when_that_is_decided(serving: Any) -> None:
    async with serving(rules=judged("yes")) as cluster:
        future = cluster.client.compute(guarded(refuse)("Where is it?"))
        assert await _read(future) == [DRAFT] == [(await future).text]
        report = await fm.report(future)
        assert report.data.first_token_at == report.data.finished_at
        future.release()


async def test_plain_code_that_gives_another_text_than_was_shown_begins_anew(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a result was lost behind the stream, and the run took another branch when all was made again."""

    async def followed(client: Client, where: Any) -> AsyncIterator[tuple[str, str | None]]:
        yield "shown before", None
        yield "", "finished"

    async def found(*args: Any) -> dict[str, Any]:
        return {"attempt": 1}

    monkeypatch.setattr(stream_module, "_follow", followed)
    monkeypatch.setattr(stream_module.AnswerStream, "_where", found)
    async with serving("small", text="ab") as cluster:
        future = cluster.client.compute(fan(["x"]))
        chunks = [chunk async for chunk in fm.stream(future)]
        assert chunks == [Chunk("shown before"), Chunk("['ab']", restarted=True)]
        future.release()


async def test_an_error_of_the_run_is_raised_at_the_end_of_the_stream(serving: Any) -> None:
    async with serving("small", rules=[{"when": "x", "fault": "error", "at_token": 4}]) as cluster:
        future = cluster.client.compute(one("x"))
        stream = aiter(fm.stream(future))
        assert (await anext(stream)).text
        with pytest.raises(EngineError):
            await _rest(stream)
        future.release()


async def test_an_attempt_that_goes_on_alike_elsewhere_continues_the_stream(serving: Any) -> None:
    rule = {"when": "x", "fault": "crash", "at_token": 5}
    async with serving("small", on={"bad": 1, "good": 1}, text=WORDS, placements={"bad": {"rules": [rule]}}) as cluster:
        worker, bad = cluster.workers["small-good-0"], cluster.engines["small-bad-0"]
        bad.pause()
        cluster.scheduler.handle_worker_status_change("paused", worker.address, "test")  # so the bad one is first
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: bad.state().running == 1)
        cluster.scheduler.handle_worker_status_change("running", worker.address, "test")
        bad.resume()
        chunks = [chunk async for chunk in fm.stream(future)]
        assert "".join(chunk.text for chunk in chunks) == WORDS
        assert not any(chunk.restarted for chunk in chunks)
        assert len((await fm.report(future)).data.calls[0].attempts) > 1
        future.release()


async def test_an_attempt_that_says_something_else_restarts_the_stream_and_says_so(serving: Any) -> None:
    rule = {"when": "x", "text": "the first answer is lost", "fault": "crash", "at_token": 5}
    async with serving(
        "small", on={"bad": 1, "good": 1}, text="Another answer.", placements={"bad": {"rules": [rule]}}
    ) as cluster:
        bad = cluster.engines["small-bad-0"]
        future = None
        while not bad.requests:  # until the policy sends one there
            future = cluster.client.compute(one("x"))
            shown, restarts = "", 0
            async for chunk in fm.stream(future):
                restarts += chunk.restarted
                shown = chunk.text if chunk.restarted else shown + chunk.text
            assert shown == (await future).text == "Another answer."
        assert restarts == 1
        future.release()


async def test_only_futures_can_be_streamed(serving: Any) -> None:
    with pytest.raises(TypeError, match=r"takes the Future of client.compute\(...\), not a str"):
        fm.stream("x")
    async with serving("small") as cluster:
        future = cluster.client.compute(one("x"))
        with pytest.raises(TypeError, match="async for"):
            list(fm.stream(future))
        await future
        future.release()


async def test_a_synchronous_client_streams_with_for(serving: Any) -> None:
    async with serving("small", token_s=0.001, text=WORDS) as cluster:

        def read() -> tuple[list[str], str]:
            with Client(cluster.cluster.scheduler_address, set_as_default=False) as client:
                future = client.compute(one("x"))
                pieces = [str(chunk) for chunk in fm.stream(future)]
                text = future.result().text
                future.release()
            return pieces, text

        pieces, text = await asyncio.to_thread(read)
        assert "".join(pieces) == text == WORDS
        assert len(pieces) > 1


async def test_a_stream_says_that_the_scheduler_was_lost() -> None:
    briefly = dask.config.set({"distributed.comm.timeouts.connect": "500ms"})  # that long the client looks for it
    with briefly:
        async with InProcessCluster(deployment("small", token_s=0.05)) as cluster:
            stream = aiter(fm.stream(cluster.client.compute(one("x"))))
            await anext(stream)
            await cluster.scheduler.close()
            with pytest.raises(StreamLostError, match=r"lost after [1-9]\d* characters of the answer"):
                await _rest(stream)


async def test_a_question_that_goes_on_when_the_scheduler_is_lost_does_not_hold_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(client: Client, **question: Any) -> None:
        """As long as the configuration lets a scheduler be looked for."""
        await asyncio.Event().wait()

    with dask.config.set({"distributed.comm.timeouts.connect": "500ms"}):
        async with InProcessCluster(deployment("small", token_s=0.05)) as cluster:
            monkeypatch.setattr(stream_module, "_asked", never)
            stream = aiter(fm.stream(cluster.client.compute(one("x"))))
            asking = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            await cluster.scheduler.close()
            with pytest.raises(StreamLostError, match="lost after 0 characters"):
                await asking


@pytest.mark.parametrize(("how", "raised"), [("close", StreamLostError), ("uninstall", NotInstalledError)])
async def test_a_stream_that_waits_for_a_replica_ends_with_the_runtime(how: str, raised: type[Exception]) -> None:
    """Its question waits for twenty seconds, and may be cancelled in the moment its run is dropped, which is lost."""
    with dask.config.set({"distributed.comm.timeouts.connect": "500ms"}):
        async with InProcessCluster(deployment("small")) as cluster:
            await cluster.workers["small-cpu-0"].close()
            future = cluster.client.compute(one("x"))
            await fm.report(future)  # it has come
            reading = asyncio.ensure_future(_read(future))
            await cluster.until(lambda: cluster.router.answers._waiting)
            async with asyncio.timeout(15):
                await (cluster.cluster.close() if how == "close" else fm.uninstall(cluster.client))
                with pytest.raises(raised):
                    await reading


async def test_a_stream_that_is_broken_off_can_be_read_again(serving: Any) -> None:
    async with serving("small", token_s=0.002, text="so it is, and more of it") as cluster:
        engine = cluster.engines["small-cpu-0"]
        future = cluster.client.compute(one("x"))
        chunks = aiter(fm.stream(future))
        await anext(chunks)
        engine.pause()
        await chunks.aclose()
        engine.resume()
        assert "".join([str(chunk) async for chunk in fm.stream(future)]) == (await future).text
        future.release()
        await cluster.settled()


async def test_streams_that_wait_leave_the_connections_of_their_client_to_others(serving: Any) -> None:
    async with serving("small", "large") as cluster:
        cluster.client.rpc.semaphore = asyncio.Semaphore(4)  # of connections that it shares; Dask has 512
        waiting = cluster.engines["large-cpu-1"]
        waiting.pause()
        held = [cluster.client.compute(on_large(f"{n}")) for n in range(12)]
        readers = [asyncio.ensure_future(_read(future)) for future in held]
        await cluster.until(lambda: waiting.state().running == 4)
        await asyncio.sleep(0.2)
        other = cluster.client.compute(one("of somebody else"))
        async with asyncio.timeout(10):
            assert (await other).model == "small"
            assert (await fm.status(cluster.client))["replicas"]
        waiting.resume()
        answers = await asyncio.gather(*readers)
        assert all("".join(pieces) for pieces in answers)
        for future in [*held, other]:
            future.release()
