"""Streams that have nothing to say for a while."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import openai
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

RULE = {"when": "boom", "fault": "error", "at_token": 0}
CHAT = {"model": "rag", "messages": [{"role": "user", "content": "Why?"}]}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments come after a moment, as in life after 15 s."""
    monkeypatch.setattr("dask_fmware.gateway.events.QUIET_S", 0.02)


async def raw(url: str, body: Any) -> str:
    """What comes of a stream, all of it."""
    asked = HTTPRequest(url, "POST", body=json.dumps({**body, "stream": True}), request_timeout=60)
    answer = await AsyncHTTPClient().fetch(asked)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    said: str = answer.body.decode()
    return said


async def test_a_stream_that_waits_for_its_first_token_is_kept_open(serve) -> None:
    async with serve(text="It is 42.", token_s=0.1) as served:
        said = await raw(f"{served.url}/workflows/rag", {"inputs": {"question": "Why?"}})
        assert said.startswith(": under way\n\n")
        events = await served.events("/workflows/rag", {"inputs": {"question": "Why?"}, "stream": True})
        assert "".join(json.loads(data)["text"] for name, data in events if name == "text") == "It is 42."
        assert events[-1][0] == "end"


async def test_a_chat_begins_with_who_speaks_whatever_was_written_before(serve) -> None:
    async with serve(text="It is 42.", token_s=0.1) as served:
        said = await raw(f"{served.url}/v1/chat/completions", CHAT)
        assert said.startswith(": under way\n\n")
        events = [json.loads(line[6:]) for line in said.split("\n") if line.startswith("data: {")]
        assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            pieces = await client.chat.completions.create(**CHAT, stream=True)
            assert "".join([piece.choices[0].delta.content or "" async for piece in pieces]) == "It is 42."


async def test_a_run_that_fails_after_a_wait_is_told_in_the_stream(serve) -> None:
    async with serve(text="It is 42.", token_s=0.1, rules=[RULE]) as served:
        *_, (name, data) = await served.events(
            "/workflows/rag", {"inputs": {"question": "Why?", "tone": "boom"}, "stream": True}
        )
        assert name == "error"
        assert json.loads(data)["error"]["code"] == 502


async def test_an_answer_that_is_ready_at_once_has_no_comment(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware.gateway.events.QUIET_S", 60.0)
    async with serve(text="It is 42.", token_s=0.1) as served:
        assert ": under way" not in await raw(f"{served.url}/workflows/rag", {"inputs": {"question": "Why?"}})


async def test_comments_to_a_caller_who_reads_nothing_let_it_go(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware.gateway.events.QUIET_S", 0.0)
    monkeypatch.setattr("dask_fmware.gateway.events.COMMENT", ": " + "x" * 1_000_000 + "\n\n")
    monkeypatch.setattr("dask_fmware.gateway.handler.TAKEN_S", 0.1)
    async with serve() as served:  # whose answer goes on until it is cut
        for engine in served.cluster.engines.values():
            engine.token_s = 60.0
        body = json.dumps({"inputs": {"question": "Why?"}, "stream": True}).encode()
        head = b"POST /workflows/rag HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1]))) as caller:
            await asyncio.to_thread(caller.sendall, head + body)
            await served.cluster.until(lambda: served.gateway.requests, "it has come")
            await served.cluster.until(lambda: not served.gateway.requests, "it is let go")
            await served.cluster.settled()
