"""Embeddings in OpenAI's protocol: what is asked, what is read, what goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dask_fmware.errors import (
    CapacityError,
    ContextOverflowError,
    EngineCrashedError,
    EngineError,
    FMwareError,
)
from dask_fmware.model.engine import Request, Usage
from dask_fmware.testing.asking import collect, is_idle
from tests.engines.openai_stub import Asked, Write, answering, serving_http, started, whole

pytest.importorskip("openai")

SECRET = "my bank account"
TEXTS = Request("r", 1, texts=("the sea", SECRET))
VECTORS = [{"index": 1, "embedding": [0.6, 0.8]}, {"index": 0, "embedding": [1, 0.0]}]
USAGE = {"prompt_tokens": 9, "total_tokens": 9}


def saying(*answers: bytes) -> tuple[Any, list[Asked]]:
    """A server that gives one answer after the other, and what it was asked."""
    seen: list[Asked] = []

    async def answer(asked: Asked, write: Write) -> None:
        seen.append(asked)
        await write(answers[min(len(seen), len(answers)) - 1])

    return answering(answer), seen


async def test_all_texts_of_a_call_are_one_request_whose_vectors_come_in_their_order() -> None:
    server, seen = saying(whole(200, {"data": VECTORS, "usage": USAGE}))
    async with server as address, started(address, embeds=True, extra={"user": "u"}) as engine:
        (delta,) = await collect(engine, TEXTS)
    assert seen[0].path == "/v1/embeddings"
    assert seen[0].body == {
        "model": "tiny", "input": ["the sea", SECRET], "encoding_format": "float", "user": "u"
    }  # fmt: skip
    assert delta.vectors == [(1.0, 0.0), (0.6, 0.8)]
    assert (delta.tokens, delta.finish_reason, delta.usage) == (1, "stop", Usage(9, 1))


@pytest.mark.parametrize("told", [None, {}, {"prompt_tokens": -1}])
async def test_a_prompt_that_nobody_counts_is_estimated(told: Any) -> None:
    server, _ = saying(whole(200, {"data": VECTORS, "usage": told}))
    async with server as address, started(address, embeds=True) as engine:
        (delta,) = await collect(engine, TEXTS)
        assert delta.usage == Usage(2 + 4, 1)  # four bytes a token
        assert await engine.count_tokens(TEXTS) == 6


@pytest.mark.parametrize(
    "answer",
    [
        {"data": VECTORS[:1]},
        {"data": [{"index": 0, "embedding": []}, VECTORS[0]]},
        {"data": [{"index": 0, "embedding": ["x"]}, VECTORS[0]]},
        {"data": [{"index": 0, "embedding": [None]}, VECTORS[0]]},
        {"data": [{"index": 0, "embedding": [1e999]}, VECTORS[0]]},
        {"data": None},
        {"data": [SECRET]},
        [SECRET],
        {},
    ],
)
async def test_an_answer_without_a_vector_for_each_text_is_no_answer(answer: Any) -> None:
    server, _ = saying(whole(200, answer))
    async with server as address, started(address, embeds=True) as engine:
        with pytest.raises(EngineCrashedError, match="the answer is not OpenAI's protocol") as raised:
            await collect(engine, TEXTS)
        assert SECRET not in str(raised.value)
        assert is_idle(engine)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"error": {"message": f"context length exceeded by {SECRET}"}}, ContextOverflowError, "context"),
        (400, {"error": {"type": "invalid_request_error"}}, EngineError, "is refused .HTTP 400"),
        (401, {}, EngineCrashedError, "refuses the key"),
        (404, {}, EngineCrashedError, "the model is not served there"),
        (429, {"error": {"type": "insufficient_quota"}}, CapacityError, "quota"),
        (500, {}, EngineCrashedError, "the server failed"),
        (501, {"error": {"type": "not_supported_error"}}, EngineError, "--embeddings"),
    ],
)
async def test_what_a_server_refuses_is_named_without_a_word_of_it(
    status: int, body: Any, kind: type[FMwareError], words: str
) -> None:
    server, _ = saying(whole(status, body))
    async with server as address, started(address, embeds=True) as engine:
        with pytest.raises(kind, match=words) as raised:
            await collect(engine, TEXTS)
        assert SECRET not in str(raised.value)
        assert type(raised.value) is kind


async def test_a_rate_limit_is_waited_for() -> None:
    server, seen = saying(whole(429, {}, Retry_After="0"), whole(200, {"data": VECTORS}))
    async with server as address, started(address, embeds=True) as engine:
        deltas = await collect(engine, TEXTS)
    assert len(seen) == 2
    assert len(deltas[-1].vectors) == 2
    assert all(delta.vectors is None and delta.tokens == 0 for delta in deltas[:-1])


async def test_what_has_come_before_a_rate_limit_is_not_asked_again() -> None:
    async def answer(asked: Asked, write: Write) -> None:
        seen.append(len(asked.body["input"]))
        if len(seen) == 2:
            await write(whole(429, {}, Retry_After="0"))
        else:
            data = [{"index": i, "embedding": [1.0]} for i in range(len(asked.body["input"]))]
            await write(whole(200, {"data": data, "usage": USAGE}))

    seen: list[int] = []
    async with answering(answer) as address, started(address, embeds=True) as engine:
        last = (await collect(engine, Request("r", 1, texts=("a",) * 70)))[-1]
    assert seen == [32, 32, 32, 6]
    assert (len(last.vectors), last.usage) == (70, Usage(27, 1))


async def test_a_server_that_is_silent_is_given_up() -> None:
    async def silent(asked: Asked, write: Write) -> None:
        await asyncio.Event().wait()

    async with answering(silent) as address, started(address, embeds=True, first_token_timeout_s=0.2) as engine:
        with pytest.raises(EngineCrashedError, match="no answer within"):
            await collect(engine, TEXTS)


async def test_a_model_that_is_not_listed_is_asked_for_a_vector() -> None:
    seen: list[Asked] = []

    async def unlisted(asked: Asked, write: Write) -> None:
        seen.append(asked)
        await write(whole(404, {}) if asked.path == "/v1/models" else whole(200, {"data": VECTORS[1:]}))

    async with serving_http(unlisted) as address, started(address, embeds=True) as engine:
        assert engine.capabilities.embeds
    assert [asked.path for asked in seen] == ["/v1/models", "/v1/embeddings"]
    assert seen[-1].body["input"] == ["Hi"]


async def test_a_text_that_fits_in_no_case_is_not_sent() -> None:
    server, seen = saying(whole(200, {"data": VECTORS}))
    async with server as address, started(address, embeds=True, context_tokens=16) as engine:
        with pytest.raises(ContextOverflowError, match="text 1 of 2 has"):
            await collect(engine, Request("r", 1, texts=("a", "a" * 5000)))
    assert not seen
