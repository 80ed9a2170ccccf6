"""What callers send, and how it is read."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from typing import Any, NoReturn

import pytest
from tornado.iostream import IOStream
from tornado.tcpclient import TCPClient

from dask_fmware.compile import collection
from dask_fmware.errors import SpecError
from dask_fmware.gateway import runs
from dask_fmware.gateway.bodies import MOST_MESSAGES, ChatBody, RunBody, read
from dask_fmware.gateway.handler import Handler
from dask_fmware.spec.nesting import DEEPEST


def test_of_many_messages_that_are_wrong_the_first_is_told_and_no_more_are_looked_at() -> None:
    body = b'{"model": "rag", "messages": [' + b"{}," * 199_999 + b"{}]}"
    tracemalloc.start()
    try:
        with pytest.raises(SpecError, match=r"^the body: messages\.0\.role: is missing; add it$"):
            read(ChatBody, body)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_chat_of_too_many_messages_is_refused_without_a_word_of_them() -> None:
    turns = [{"role": "user", "content": "secret"}] * (MOST_MESSAGES + 1)
    with pytest.raises(SpecError, match=r"messages: .* at most 10000 items") as raised:
        read(ChatBody, json.dumps({"model": "rag", "messages": turns}).encode())
    assert "secret" not in str(raised.value)
    assert len(read(ChatBody, json.dumps({"model": "rag", "messages": turns[1:]}).encode()).messages) == MOST_MESSAGES


@pytest.mark.parametrize("body", [{"k" * 100_000: 1}, {"slo": {"k" * 100_000: 1}}])
def test_what_is_said_of_a_long_key_is_short(body: object) -> None:
    with pytest.raises(SpecError, match="unknown key 'kkk") as raised:
        read(RunBody, json.dumps(body).encode())
    assert len(str(raised.value)) < 400


def nested(depth: int) -> bytes:
    """A body with so many lists and objects within one another."""
    return b'{"inputs": {"question": ' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}}"


async def test_what_is_nested_as_deeply_as_it_may_be_runs_and_what_is_deeper_is_refused(serve) -> None:
    async with serve() as served:
        body = b'{"model": "sums", "messages": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}"
        for path, one in (("/workflows/same", nested(DEEPEST + 1)), ("/v1/chat/completions", body)):
            answer, said = await served.ask(path, one)
            assert (answer.code, "more than 200 lists and objects" in said["error"]["message"]) == (400, True)
        answer, said = await served.ask("/workflows/same", nested(DEEPEST))
        assert (answer.code, said["result"]) == (200, json.loads(nested(DEEPEST))["inputs"]["question"])


async def test_inputs_of_callers_are_data_and_not_searched_for_promises(serve, monkeypatch) -> None:
    def looked(*_: object) -> NoReturn:
        raise AssertionError

    async with serve() as served:
        for look in ("is_promise", "_check_sent"):
            monkeypatch.setattr(collection, look, looked)
        rows = [{"number": number, "text": "word"} for number in range(100)]
        _, said = await served.ask("/workflows/same", {"inputs": {"question": rows}})
        assert said["result"] == rows


async def test_a_large_body_is_read_beside_the_loop(serve, monkeypatch) -> None:
    threads: list[threading.Thread] = []

    def reading(*asked: Any) -> Any:
        threads.append(threading.current_thread())
        return read(*asked)

    async with serve() as served:
        monkeypatch.setattr(runs, "read", reading)
        for words in (1, runs.LARGE_BYTES // 5):
            text = "word " * words
            _, said = await served.ask("/workflows/same", {"inputs": {"question": text}})
            assert said["result"] == text
    assert [thread is threading.current_thread() for thread in threads] == [True, False]


@pytest.mark.parametrize("key", ["inputs", "input"])
async def test_a_caller_who_hangs_up_while_its_body_is_read_runs_nothing(serve, monkeypatch, caplog, key: str) -> None:
    begun, gone, over, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event(), threading.Event()
    on_connection_close = Handler.on_connection_close

    def hearing(handler: Handler) -> None:
        on_connection_close(handler)
        gone.set()

    def reading(*asked: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert goes_on.wait(30)
        loop.call_soon_threadsafe(over.set)
        return read(*asked)

    loop = asyncio.get_running_loop()
    async with serve() as served:
        monkeypatch.setattr(runs, "read", reading)
        monkeypatch.setattr(Handler, "on_connection_close", hearing)
        said = json.dumps({key: {"question": "word " * runs.LARGE_BYTES}}).encode()
        caller: IOStream = await TCPClient().connect("127.0.0.1", int(served.url.rsplit(":", 1)[1]))
        head = f"POST /workflows/same HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(said)}\r\n\r\n"
        await caller.write(head.encode() + said)
        await begun.wait()
        caller.close()
        await gone.wait()
        goes_on.set()
        await over.wait()
        await asyncio.sleep(0.5)
        assert not served.gateway.requests
        assert not list(served.cluster.router.machine.runs.reports())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
