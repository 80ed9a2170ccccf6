"""What becomes of requests when a gateway ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tornado.iostream import IOStream
from tornado.tcpclient import TCPClient

from dask_fmware.gateway import listening

TEXT = "It is 42, as everybody knows, and has been for long."
ASKED = {"inputs": {"question": "Why?"}}


async def posted(port: int, body: Any, path: str = "/workflows/rag") -> IOStream:
    said = json.dumps(body).encode()
    caller: IOStream = await TCPClient().connect("127.0.0.1", port)
    await caller.write(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said
    )
    return caller


async def test_requests_under_way_are_finished_at_the_end_and_none_begun(serve) -> None:
    async with serve(text=TEXT, token_s=0.02) as served:
        gateway = served.gateway
        async with listening(gateway, port=0) as port:
            served.url = f"http://127.0.0.1:{port}"
            asked = asyncio.create_task(served.ask("/workflows/rag", {"inputs": {"question": "Why?"}}))
            await served.cluster.until(lambda: gateway.requests, "it has come")
        assert (await asked)[0].code == 200
        with pytest.raises(OSError, match=r".*"):
            await served.ask("/health")


@pytest.mark.parametrize("path", ["/workflows/rag", "/v1/chat/completions"])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_requests_that_take_longer_than_the_grace_are_cancelled_and_told_so(
    serve, path: str, is_streamed: bool
) -> None:
    async with serve() as served:
        for engine in served.cluster.engines.values():
            engine.token_s = 0.1
        chat = {"model": "rag", "messages": [{"role": "user", "content": "Why?"}]}
        async with listening(served.gateway, port=0, grace_s=0.05) as port:
            caller = await posted(port, {**(chat if "chat" in path else ASKED), "stream": is_streamed}, path)
            if is_streamed:
                await caller.read_until(b"text" if "workflows" in path else b"assistant")
            await served.cluster.until(lambda: served.gateway.requests, "it has come")
        assert not served.gateway.requests
        said = await caller.read_until_close()  # an answer that just stops would pass for a whole one
        assert (b" 503 " in said.split(b"\r\n")[0]) is not is_streamed
        assert b"this gateway is ending" in said
        assert b"[DONE]" not in said


async def test_a_port_that_ends_leaves_the_requests_of_another_alone(serve) -> None:
    async with serve(text=TEXT, token_s=0.02) as served:
        asked = asyncio.create_task(served.ask("/workflows/rag", ASKED))
        await served.cluster.until(lambda: served.gateway.requests, "it has come")
        async with listening(served.gateway, port=0, grace_s=0.0):
            pass
        assert (await asked)[0].code == 200


async def test_a_gateway_that_ends_takes_no_requests_over_connections_that_it_has(serve) -> None:
    async with serve(text=TEXT, token_s=0.05) as served:
        gateway = served.gateway
        body = b'{"inputs": {"first": 1, "second": 2}}'
        async with listening(gateway, port=0) as port:
            under_way = await posted(port, ASKED)
            idle = await posted(port, {"inputs": {"first": 1, "second": 2}}, "/workflows/sums")
            assert b" 200 " in await idle.read_until(b'"cost": null}')
            slow: IOStream = await TCPClient().connect("127.0.0.1", port)
            await slow.write(
                b"POST /workflows/sums HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body[:5])
            )
            await served.cluster.until(lambda: gateway.requests, "it has come")

            async def late() -> list[bytes]:
                await asyncio.sleep(0.1)  # it is ending then
                await idle.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await slow.write(body[5:])
                return [await one.read_until(b"}") for one in (idle, slow)]

            asking = asyncio.create_task(late())
        for said in await asking:
            assert b" 503 " in said.split(b"\r\n")[0]
        assert b" 200 " in await under_way.read_until(b'"cost": null}')
