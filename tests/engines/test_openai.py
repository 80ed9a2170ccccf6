"""OpenAI's protocol in its dialects."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import jsonschema
import pytest

from dask_fmware.errors import ContextOverflowError, SpecError
from dask_fmware.model.engine import Message, Sampling, Usage
from dask_fmware.testing.asking import ask, collect, text_of
from tests.engines.openai_stub import (
    SCHEMA,
    STREAM,
    Asked,
    Write,
    answering,
    piece,
    serving_again_and_again,
    started,
    stubbed,
    usage,
)

pytest.importorskip("openai")

CHAT = (Message("user", "Tell me about the sea"),)


async def test_openai_gets_chats_with_its_own_field_names() -> None:
    async with stubbed("openai", text="fine weather today") as (engine, stub):
        sampling = Sampling(temperature=0.5, top_p=0.9, seed=2**70, stop=("zzz",))
        deltas = await collect(engine, ask(max_tokens=20, sampling=sampling))
    body = stub.seen[-1].body
    assert text_of(deltas) == "fine weather today"
    assert stub.seen[-1].path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Tell me about the sea"}]
    assert body["max_completion_tokens"] == 20
    assert (body["temperature"], body["top_p"], body["stop"]) == (0.5, 0.9, ["zzz"])
    assert body["seed"] < 2**63
    assert body["stream_options"] == {"include_usage": True}
    assert not {"prompt", "max_tokens", "top_k", "response_format"} & set(body)
    assert deltas[-1].usage.output_tokens == sum(delta.tokens for delta in deltas)


async def test_a_server_that_knows_no_other_limit_gets_max_tokens() -> None:
    async with stubbed("ollama", text="fine weather today") as (engine, stub):
        deltas = await collect(engine, ask(max_tokens=20, sampling=Sampling(seed=2**70)))
        label = await collect(engine, ask(max_tokens=60, choices=("order", "search")))
    assert (text_of(deltas), text_of(label) in ("order", "search")) == ("fine weather today", True)
    body = stub.seen[0].body
    assert (stub.seen[0].path, body["max_tokens"]) == ("/v1/chat/completions", 20)
    assert body["seed"] < 2**31
    assert "max_completion_tokens" not in body


async def test_a_server_that_does_not_keep_to_the_limit_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def endless(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("on and on and on", "stop") + usage(5, 422) + b"data: [DONE]\n\n")

    async with answering(endless) as address, started(address) as engine:
        for name in "ab":
            assert text_of(await collect(engine, ask(name, max_tokens=10))) == "on and on and on"
    (told,) = [record.getMessage() for record in caplog.records if record.name == "dask_fmware.engines"]
    assert "gave 422 tokens where 'max_completion_tokens' was 10" in told
    assert "correct 'dialect'" in told


async def test_vllm_gets_prompts_and_counts_every_token() -> None:
    async with stubbed("vllm", text="fine weather today") as (engine, stub):
        deltas = await collect(engine, ask(max_tokens=20, sampling=Sampling(top_k=5, seed=1)))
        counted = await engine.count_tokens(ask())
        chat = await collect(engine, ask("chat", messages=CHAT))
    assert stub.seen[0].path == "/v1/completions"
    assert stub.seen[0].body["top_k"] == 5
    assert deltas[-1].usage == Usage(counted, sum(delta.tokens for delta in deltas), 0)
    assert stub.seen[-1].path == "/v1/chat/completions"
    assert text_of(chat) == "fine weather today"


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
async def test_choices_and_schemas_come_through_the_dialects_own_mechanism(dialect: str) -> None:
    async with stubbed(dialect) as (engine, stub):
        label = await collect(engine, ask(max_tokens=60, choices=("order", "search")))
        document = await collect(engine, ask(max_tokens=60, json_schema=SCHEMA))
    assert text_of(label) in ("order", "search")
    assert label[-1].usage.output_tokens == sum(delta.tokens for delta in label)
    jsonschema.validate(json.loads(text_of(document)), SCHEMA)
    bodies = [asked.body for asked in stub.seen]
    if dialect == "openai":
        assert [body["response_format"]["json_schema"]["strict"] for body in bodies] == [True, True]
    else:
        assert [body["structured_outputs"] for body in bodies] == [{"choice": ["order", "search"]}, {"json": SCHEMA}]


async def test_a_schema_that_strict_mode_refuses_is_sent_without_it() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]}
    async with stubbed("openai") as (engine, stub):
        await collect(engine, ask(max_tokens=60, json_schema=schema))
    assert stub.seen[-1].body["response_format"]["json_schema"]["strict"] is False


@pytest.mark.parametrize("dialect", ["openai", "vllm"])
async def test_a_format_that_max_tokens_cuts_is_told_by_the_reason_with_what_it_took(dialect: str) -> None:
    async with stubbed(dialect) as (engine, _):
        for fields in ({"choices": ("xyzzy plugh",)}, {"json_schema": SCHEMA}):
            deltas = await collect(engine, ask(max_tokens=2, **fields))
            assert deltas[-1].finish_reason == "length"
            assert deltas[-1].usage.output_tokens == 2


async def test_a_label_that_comes_bare_is_taken_as_it_is() -> None:
    async def bare(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("or") + piece("der", "stop") + usage(5, 2) + b"data: [DONE]\n\n")

    async with answering(bare) as address, started(address) as engine:
        assert text_of(await collect(engine, ask(choices=("order", "search")))) == "order"


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\r"])
async def test_an_answer_may_hold_any_end_of_line(end: str) -> None:
    async def as_it_is(asked: Asked, write: Write) -> None:
        said = {"choices": [{"index": 0, "delta": {"content": f"a{end}\nb"}, "finish_reason": "stop"}]}
        lines = b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\r\n\r\n"
        half = len(lines) // 2  # within a character or not
        await write(STREAM + lines[:half])
        await asyncio.sleep(0.01)
        await write(lines[half:] + b"data: [DONE]\n\n")

    async with answering(as_it_is) as address, started(address) as engine:
        assert text_of(await collect(engine, ask())) == f"a{end}\nb"


async def test_an_answer_that_is_whole_stays_so_when_its_connection_ends_untidily() -> None:
    async def torn(asked: Asked, write: Write) -> None:
        said = piece("fine", "stop") + usage(5, 1) + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await write(head + b"%x\r\n%b\r\n" % (len(said), said))  # and no last chunk

    async with answering(torn) as address, started(address) as engine:
        deltas = await collect(engine, ask())
        assert (text_of(deltas), deltas[-1].usage) == ("fine", Usage(5, 1))


@pytest.mark.parametrize(
    ("events", "text"),
    [
        (["a\\ud83d", "\\ude00b"], "a\N{GRINNING FACE}b"),
        (["\\ud83d", "", "\\ude00"], "\N{GRINNING FACE}"),
        (["a\\ud83d"], "a\N{REPLACEMENT CHARACTER}"),  # its other half never comes
        (["\\ude00b"], "\N{REPLACEMENT CHARACTER}b"),
    ],
)
async def test_a_character_may_come_in_two_events(events: list[str], text: str) -> None:
    async def cut(asked: Asked, write: Write) -> None:
        raw = [b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % part.encode() for part in events]
        await write(STREAM + b"".join(raw) + piece("", "stop") + b"data: [DONE]\n\n")

    async with answering(cut) as address, started(address) as engine:
        deltas = await collect(engine, ask())
    assert text_of(deltas) == text
    for delta in deltas:
        delta.text.encode()


@pytest.mark.parametrize(
    ("said", "reason"),
    [("eos", "stop"), ("eos_token", "stop"), ("stop_sequence", "stop"), ("end_turn", "stop"), ("max_tokens", "length")],
)
async def test_servers_have_words_of_their_own_for_the_end_of_an_answer(said: str, reason: str) -> None:
    async def answer(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("fi") + piece("ne", said) + b"data: [DONE]\n\n")

    async with answering(answer) as address, started(address) as engine:
        deltas = await collect(engine, ask())
    assert (text_of(deltas), deltas[-1].finish_reason) == ("fine", reason)


@pytest.mark.parametrize("goes_on", ["", "null"])
async def test_servers_have_words_of_their_own_for_an_answer_that_goes_on(goes_on: str) -> None:
    async def answer(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("fi", goes_on) + piece("ne", goes_on) + piece("", "length") + b"data: [DONE]\n\n")

    async with answering(answer) as address, started(address) as engine:
        deltas = await collect(engine, ask())
    assert (text_of(deltas), deltas[-1].finish_reason) == ("fine", "length")


async def test_an_event_that_says_nothing_is_passed_over() -> None:
    async def answer(asked: Asked, write: Write) -> None:
        await write(STREAM + b"data:\n\n" + piece("fine", "stop") + b"data: \n\ndata: [DONE]\n\n")

    async with answering(answer) as address, started(address) as engine:
        assert text_of(await collect(engine, ask())) == "fine"


async def test_one_connection_serves_one_call_after_another() -> None:
    async with serving_again_and_again() as (address, connections), started(address) as engine:
        for name in "abcdef":
            assert text_of(await collect(engine, ask(name))) == "fine"
        assert len(connections) == 1


async def test_a_connection_that_the_server_closes_when_it_is_used_again_is_no_fault() -> None:
    """Servers close connections after so many requests, or seconds, and a request may be on its way then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        kind, body = b"application/json", b'{"data": [{"id": "tiny"}]}'
        if (await reader.readline()).startswith(b"POST"):
            kind, body = b"text/event-stream", piece("fine", "stop") + b"data: [DONE]\n\n"
        length = 0
        while (line := await reader.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        await reader.readexactly(length)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
        writer.write(head + body)
        with contextlib.suppress(ConnectionError):
            await reader.read(1)  # of the next request
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    serving: list[Any] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        async with started(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as engine:
            for name in "abc":
                assert text_of(await collect(engine, ask(name))) == "fine"
        await asyncio.gather(*serving)


async def test_fields_of_the_deployment_are_added_and_top_k_has_no_place_in_openai() -> None:
    async with stubbed("openai", text="x") as (engine, stub):
        with pytest.raises(SpecError, match=r"top_k=40.*top_p"):
            await collect(engine, ask(sampling=Sampling(top_k=40)))
        await collect(engine, ask(sampling=Sampling(top_k=1)))
        assert stub.seen[-1].body["temperature"] == 0
    async with answering(stub) as address:
        await stub.engine.start()
        async with started(address, extra={"reasoning_effort": "low"}) as engine:
            await collect(engine, ask())
    assert stub.seen[-1].body["reasoning_effort"] == "low"


async def test_vllm_counts_only_where_the_context_is_in_doubt() -> None:
    async with stubbed("vllm", text="x") as (engine, stub):
        await collect(engine, ask(max_tokens=4))
        assert not [asked for asked in stub.seen if asked.path == "/tokenize"]
        with pytest.raises(ContextOverflowError, match=r"1341 prompt tokens.*max_tokens=1200.*2048"):
            await collect(engine, ask(max_tokens=1200, prompt="the sea " * 670))
    assert [asked.path for asked in stub.seen] == ["/v1/completions", "/tokenize"]


async def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with stubbed("vllm", text="fine") as (engine, _):
        assert text_of(await collect(engine, ask(max_tokens=20))) == "fine"
