"""OpenAI's own client in front of workflows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

import dask_fmware as fm

TEXT = "It is 42, as everybody knows, and has been for long."
ASKED = [{"role": "user", "content": "Why?"}]


@asynccontextmanager
async def client_of(served: Any, key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def test_a_workflow_answers_as_a_model(serve) -> None:
    async with serve(text=TEXT) as served, client_of(served) as client:
        assert [model.id async for model in client.models.list()] == ["rag", "chat", "sums", "oddities", "same"]
        said = await client.chat.completions.create(
            model="rag", messages=ASKED, temperature=0.5, max_tokens=5, n=1, tools=[], response_format={"type": "text"}
        )
        assert (said.choices[0].message.content, said.choices[0].finish_reason) == (TEXT, "stop")
        report = served.cluster.router.machine.report(said.id.removeprefix("chatcmpl-"))
        assert said.usage.completion_tokens == sum(call.attempts[-1].output_tokens for call in report.calls)


async def test_one_model_is_told_of_by_its_name(serve) -> None:
    async with serve(text=TEXT) as served, client_of(served) as client:
        assert [await client.models.retrieve(model.id) async for model in client.models.list()] == [
            model async for model in client.models.list()
        ]
        with pytest.raises(openai.NotFoundError, match="no workflow 'nothing' here, which the model is"):
            await client.models.retrieve("nothing")


async def test_its_answer_is_streamed(serve) -> None:
    async with serve(text=TEXT, token_s=0.01) as served, client_of(served) as client:
        stream = await client.chat.completions.create(
            model="rag", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
        assert len(texts) > 1
        assert "".join(texts) == TEXT
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage.total_tokens > 0


@pytest.mark.parametrize(("kind", "text"), [("object", '{"a": [true]}'), ("none", "null")])
async def test_what_plain_code_returns_is_streamed_as_it_is_said_at_once(serve, kind: str, text: str) -> None:
    async with serve() as served, client_of(served) as client:
        asked: Any = {"model": "oddities", "messages": [{"role": "user", "content": kind}]}
        assert (await client.chat.completions.create(**asked)).choices[0].message.content == text
        stream = await client.chat.completions.create(**asked, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text


async def test_an_empty_answer_is_streamed_as_one(serve) -> None:
    async with serve(text="") as served, client_of(served) as client:
        stream = await client.chat.completions.create(model="rag", messages=ASKED, stream=True)
        said = [(one.delta.role, one.finish_reason) async for chunk in stream for one in chunk.choices]
        assert said == [("assistant", None), (None, "stop")]


async def test_a_workflow_with_messages_gets_the_whole_chat(serve) -> None:
    async with serve(echo=True) as served, client_of(served) as client:
        turns = [{"role": "system", "content": "Be brief."}, *ASKED]
        parts = [
            *turns[:-1],
            {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]},
        ]
        for messages in (turns, parts):
            said = await client.chat.completions.create(model="chat", messages=messages)
            assert said.choices[0].message.content == "system: Be brief. / user: Why?"


async def test_what_is_null_is_as_if_it_were_left_out(serve) -> None:
    async with serve(text=TEXT) as served:
        left_out = dict.fromkeys(("stream", "stream_options", "n", "tools", "response_format", "logprobs", "stop"))
        answer, said = await served.ask("/v1/chat/completions", {"model": "rag", "messages": ASKED, **left_out})
        assert answer.code == 200, said
        assert said["choices"][0]["message"]["content"] == TEXT


async def test_an_answer_that_was_cut_says_so(serve) -> None:
    async with serve(text="word " * 100) as served, client_of(served) as client:
        said = await client.chat.completions.create(model="rag", messages=ASKED)
        assert said.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"model": "nothing", "messages": ASKED}, openai.NotFoundError, "no workflow 'nothing'"),
        ({"model": "sums", "messages": ASKED}, openai.BadRequestError, "it is no chat"),
        ({"model": "rag", "messages": []}, openai.BadRequestError, "messages"),
        ({"model": "rag", "messages": ASKED, "n": 2}, openai.BadRequestError, "n: "),
        *(
            ({"model": "rag", "messages": ASKED, name: value}, openai.BadRequestError, f"{name}: is not supported")
            for name, value in {
                "tools": [{"type": "function", "function": {"name": "look"}}],
                "response_format": {"type": "json_object"},
                "logprobs": True,
                "modalities": ["text", "audio"],
            }.items()
        ),
        (
            {
                "model": "rag",
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            },
            openai.BadRequestError,
            "is no text",
        ),
    ],
)
async def test_what_is_wrong_with_a_request_is_said(serve, asked: Any, error: Any, message: str) -> None:
    async with serve(text=TEXT) as served, client_of(served) as client:
        with pytest.raises(error, match=message):
            await client.chat.completions.create(**asked)


async def test_what_else_openai_has_is_told_where_to_ask(serve) -> None:
    async with serve(text=TEXT) as served, client_of(served) as client:
        for asking in (
            client.completions.create(model="rag", prompt="Why?"),
            client.responses.create(model="rag", input="Why?"),
        ):
            with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
                await asking


async def test_an_engine_that_fails_is_raised_in_mid_answer(serve) -> None:
    rules = [{"when": "Answer", "text": TEXT, "token_s": 0.02, "fault": "error", "at_token": 5}]
    async with serve(text=TEXT, rules=rules) as served, client_of(served) as client:
        stream = await client.chat.completions.create(model="rag", messages=ASKED, stream=True)
        with pytest.raises(openai.APIError) as raised:
            [chunk async for chunk in stream]
        assert json.loads(json.dumps(raised.value.body))["code"] == 502


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("model", "status"), [("oddities", 500), ("rag", 502)])
async def test_a_run_that_has_failed_is_not_run_again_by_the_client(
    serve, model: str, status: int, is_streamed: bool
) -> None:
    async with serve(rules=[{"when": "Answer", "fault": "error", "at_token": 0}], text=TEXT) as served:
        async with client_of(served) as client:
            asking = client.with_options(max_retries=2).chat.completions
            with pytest.raises(openai.InternalServerError) as raised:
                await asking.create(model=model, messages=[{"role": "user", "content": "bytes"}], stream=is_streamed)
        assert raised.value.status_code == status
        assert len(await fm.reports(served.cluster.client)) == 1


async def test_a_key_is_a_token(serve) -> None:
    async with serve(text=TEXT, gateway={"tenants": {"blue-token": "blue"}}) as served:
        async with client_of(served) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with client_of(served, "blue-token") as client:
            said = await client.chat.completions.create(model="rag", messages=ASKED)
            assert served.cluster.router.machine.report(said.id.removeprefix("chatcmpl-")).tenant == "blue"
