"""Servers that speak OpenAI's protocol, or break it: a small HTTP server with one function behind it.

`OpenAIStub` serves a `ScriptedEngine` as OpenAI's own API and vLLM's do, as far as the engine under test uses
them; `answering` sends whatever bytes a test wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from dask_fmware.errors import FMwareError
from dask_fmware.model.engine import Message, Request, Sampling
from dask_fmware.testing import ScriptedEngine
from dask_fmware_workers.engines.openai_server import OpenAIEngine

Write = Callable[[bytes], Awaitable[None]]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}


@dataclass
class Asked:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Handler = Callable[[Asked, Write], Awaitable[None]]


@asynccontextmanager
async def serving_http(handle: Handler) -> AsyncIterator[str]:
    """Serve one request for each connection; yields the address."""
    running: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            method, path, _ = (await reader.readline()).decode().split()
            headers = {}
            while (line := (await reader.readline()).decode().strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            raw = await reader.readexactly(int(headers.get("content-length", 0)))

            async def write(data: bytes) -> None:
                writer.write(data)
                await writer.drain()

            gone = asyncio.ensure_future(reader.read())  # ends when the client hangs up
            handling = asyncio.ensure_future(handle(Asked(method, path, headers, json.loads(raw or b"null")), write))
            await asyncio.wait([gone, handling], return_when=asyncio.FIRST_COMPLETED)
            for side in (gone, handling):
                side.cancel()
            await asyncio.gather(gone, handling, return_exceptions=True)
        except (ConnectionError, asyncio.CancelledError, ValueError):
            pass
        finally:
            running.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}/v1"
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def serving_again_and_again() -> AsyncIterator[tuple[str, set[Any]]]:
    """Serve any number of requests for each connection; yields the address, and the connections that were made."""
    connections: set[Any] = set()

    class Models(RequestHandler):
        def get(self) -> None:
            connections.add(self.request.connection.context.address)
            self.write({"object": "list", "data": [{"id": "tiny"}]})

    class Chats(RequestHandler):
        async def post(self) -> None:
            connections.add(self.request.connection.context.address)
            self.write(piece("fi"))
            await self.flush()
            self.write(piece("ne", "stop") + b"data: [DONE]\n\n")

    server = HTTPServer(Application([("/v1/models", Models), ("/v1/chat/completions", Chats)]))
    (listening,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(listening)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", connections
    finally:
        server.stop()
        await server.close_all_connections()


def whole(status: int, body: Any, **headers: str) -> bytes:
    """A complete HTTP answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [] if "Content_Type" in headers else ["Content-Type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode() + raw


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODELS = whole(200, {"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]})


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def piece(text: str, finish_reason: str | None = None) -> bytes:
    """One event of a chat."""
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]})


def usage(prompt: int, output: int, cached: int = 0) -> bytes:
    details = {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": details}
    return event({"choices": [], "usage": counts})


def answering(answer: Handler) -> contextlib.AbstractAsyncContextManager[str]:
    """A server that lists its models and answers everything else with a function."""

    async def handle(asked: Asked, write: Write) -> None:
        if asked.path == "/v1/models":
            await write(MODELS)
        else:
            await answer(asked, write)

    return serving_http(handle)


@dataclass
class OpenAIStub:
    """A scripted engine behind the protocol."""

    engine: ScriptedEngine
    seen: list[Asked] = field(default_factory=list)

    async def __call__(self, asked: Asked, write: Write) -> None:
        self.seen.append(asked)
        body = asked.body
        if asked.path == "/tokenize":
            count = await self.engine.count_tokens(self._request(body))
            await write(whole(200, {"count": count}))
            return
        try:
            await self._stream(body, write)
        except FMwareError as error:
            await write(whole(400, {"error": {"type": "invalid_request_error", "message": str(error)}}))

    def _request(self, body: dict[str, Any]) -> Request:
        guided = body.get("structured_outputs", {})
        schema = guided.get("json") or (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        messages = tuple(Message(turn["role"], turn["content"]) for turn in body.get("messages", ())) or None
        stop = tuple(body.get("stop", ()))
        drawn = {name: body.get(name) for name in ("temperature", "top_p", "top_k", "seed")}
        return Request(
            request_id=f"stub {len(self.seen)}",
            max_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or 1,
            prompt=body.get("prompt"),
            messages=messages,
            sampling=Sampling(**drawn, stop=stop),
            choices=tuple(guided["choice"]) if "choice" in guided else None,
            json_schema=schema,
        )

    async def _stream(self, body: dict[str, Any], write: Write) -> None:
        request = self._request(body)
        prompt_tokens, made, is_open = await self.engine.count_tokens(request), 0, False
        counts = body.get("stream_options", {}).get("continuous_usage_stats", False)
        async for delta in self.engine.generate(request):
            if not is_open:
                is_open = True
                await write(STREAM)
            made += delta.tokens
            reason = delta.finish_reason
            part = {"delta": {"content": delta.text}} if request.messages else {"text": delta.text}
            data: dict[str, Any] = {"choices": [{"index": 0, **part, "finish_reason": reason}]}
            if counts:
                data["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": made}
            await write(event(data))
        await write(usage(prompt_tokens, made) + b"data: [DONE]\n\n")


@asynccontextmanager
async def started(address: str, **arguments: Any) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(**{"base_url": address, "model": "tiny", **arguments})
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def stubbed(dialect: str, **script: Any) -> AsyncIterator[tuple[OpenAIEngine, OpenAIStub]]:
    scripted = ScriptedEngine(**script)
    await scripted.start()
    stub = OpenAIStub(scripted)
    async with answering(stub) as address, started(address, dialect=dialect) as engine:
        yield engine, stub
    await scripted.close()
