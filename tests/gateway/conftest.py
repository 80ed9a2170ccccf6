"""A gateway on a port of this machine, in front of a cluster in this event loop."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

import dask_fmware as fm
from dask_fmware.gateway import Gateway, listening
from dask_fmware.testing import InProcessCluster, deployment

small, large = fm.Model("small"), fm.Model("large")


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def rag(question, tone="kind"):
    query = small("Rewrite {question}", name="rewrite", question=question, max_tokens=8)
    return large("Answer {question} {query} in a {tone} way", name="answer", question=question, query=query,
                 tone=tone, max_tokens=16)  # fmt: skip


@fm.task
def as_text(messages):
    return " / ".join(f"{turn['role']}: {turn['content']}" for turn in messages)


@fm.workflow
def chat(messages):
    return large("{messages}", name="answer", messages=as_text(messages), max_tokens=64)


@fm.task
def add(first, second):
    if first == "secret":
        raise RuntimeError("the prompt was secret")
    return {"sum": first + second, "of": (first, second)} if second != 13 else object()


@fm.workflow
def sums(first, second):
    return add(first, second)


class Found(BaseModel):
    found: float
    more: list[float]


class Liar:
    def tolist(self):
        raise KeyError("a secret")


@fm.task
def oddity(kind):
    itself: list[Any] = []
    itself.append(itself)
    made = {"itself": itself, "bytes": b"\xff", "long": 10**5000, "liar": Liar(), "none": None, "object": {"a": [True]}}
    return Found(found=math.inf, more=[math.nan]) if kind == "infinite" else made[kind]


@fm.workflow
def oddities(kind):
    return oddity(kind)


@fm.task
def itself(question):
    return question


@fm.workflow
def same(question):
    return itself(question)


@dataclass
class Served:
    """What a test talks to."""

    url: str
    cluster: InProcessCluster
    gateway: Gateway

    async def ask(self, path: str, body: Any = None, *, token: str | None = None) -> tuple[HTTPResponse, Any]:
        """Ask for JSON."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        asked = HTTPRequest(self.url + path, "GET" if body is None else "POST", headers, raw, request_timeout=60)
        answer = await AsyncHTTPClient().fetch(asked, raise_error=False)
        return answer, json.loads(answer.body) if answer.body else None

    async def events(self, path: str, body: Any) -> list[tuple[str, str]]:
        """Ask for a stream, and read it to its end."""
        asked = HTTPRequest(self.url + path, "POST", body=json.dumps(body), request_timeout=60)
        answer = await AsyncHTTPClient().fetch(asked)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        found = []
        for event in answer.body.decode().split("\n\n")[:-1]:
            if event.startswith(":"):  # a comment
                continue
            *names, data = event.split("\n")
            found.append((names[0].removeprefix("event: ") if names else "", data.removeprefix("data: ")))
        return found


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve() -> Serve:
    """A gateway in front of scripted engines; ``gateway=`` are its own arguments."""

    @asynccontextmanager
    async def context(gateway: Any = None, **arguments: Any) -> AsyncIterator[Served]:
        async with InProcessCluster(deployment("small", "large", **arguments), validate=True) as cluster:
            made = Gateway(cluster.client, [rag, chat, sums, oddities, same], **(gateway or {}))
            async with listening(made, port=0, grace_s=5) as port:
                yield Served(f"http://127.0.0.1:{port}", cluster, made)
            await cluster.settled()

    return context
