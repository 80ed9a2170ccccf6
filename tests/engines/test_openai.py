"""OpenAI's protocol in its dialects, its prices and its keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dask_fmware.errors import (
    ContextOverflowError,
    DeploymentError,
    EngineCrashedError,
    EngineLoadError,
    OutputFormatError,
    SpecError,
)
from dask_fmware.model.call import ModelCall, Template
from dask_fmware.model.engine import Message, Sampling, Usage
from dask_fmware.model.messages import AttemptEnded, Grant
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.openai_server import OpenAIEngine
from dask_fmware_workers.loading import Labels
from dask_fmware_workers.metrics import WorkerMetrics
from dask_fmware_workers.runner import CallRunner
from tests.engines.asking import ask, collect, text_of
from tests.engines.openai_stub import (
    STREAM,
    Asked,
    Write,
    answering,
    event,
    piece,
    serving_again_and_again,
    serving_http,
    started,
    stubbed,
    usage,
    whole,
)

pytest.importorskip("openai")

KEY = "sk-very-secret-0123456789"
CHAT = (Message("user", "Tell me about the sea"),)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}


# -- dialects ------------------------------------------------------------------------------------


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


# -- money and keys ------------------------------------------------------------------------------


async def test_tokens_are_priced_and_cached_ones_have_their_own_price() -> None:
    async def cached(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("a", "stop") + usage(1000, 100, cached=400) + b"data: [DONE]\n\n")

    prices = {"input": 2.0, "cached_input": 0.5, "output": 10.0}
    async with answering(cached) as address, started(address, price_per_million_tokens=prices) as engine:
        for name in "ab":
            await collect(engine, ask(name))
        spent = engine.spent
    assert spent.requests == 2
    assert spent.usage == Usage(2000, 200, 800)
    assert spent.cost == pytest.approx(2 * (600 * 2 + 400 * 0.5 + 100 * 10) / 1e6)
    assert OpenAIEngine(base_url="http://x/v1", model="m").spent.cost is None


async def test_an_answer_that_is_cut_out_of_its_format_is_reported_with_its_tokens_and_cost() -> None:
    async def cut(asked: Asked, write: Write) -> None:
        await write(STREAM + piece('{"su', "length") + usage(8000, 5, cached=1000) + b"data: [DONE]\n\n")

    prices = {"input": 2.0, "cached_input": 0.5, "output": 10.0}
    call = ModelCall("triage", "judge", "tiny", (Template("Is it?"),), 5, json_schema=SCHEMA)
    sent: list[dict[str, Any]] = []
    runner = CallRunner(sent.append, lambda engine, error: None)
    async with answering(cut) as address, started(address, price_per_million_tokens=prices) as engine:
        runner.prices = engine.capabilities.price_per_million_tokens
        runner.grant(Grant("k", 1))
        with pytest.raises(OutputFormatError, match=r"'judge'.*cut at max_tokens=5: raise it"):
            await runner.run(engine, call, "k", {})
        assert engine.spent.usage == Usage(8000, 5, 1000)
    ended = AttemptEnded.from_wire(sent[-1])
    assert (ended.outcome, ended.format_tokens) == ("failed", 5)
    assert (ended.prompt_tokens, ended.output_tokens, ended.cached_tokens) == (8000, 5, 1000)
    assert ended.cost == pytest.approx((7000 * 2 + 1000 * 0.5 + 5 * 10) / 1e6)


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ({"prompt_tokens": 12.0, "completion_tokens": 5.0}, (12, 5, 0)),
        ({"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 90}}, (12, 5, 12)),
        ({"prompt_tokens": -1, "completion_tokens": -1}, (6, 1, 0)),  # no usage: estimated, and counted by events
        ({"prompt_tokens": "12"}, (6, 1, 0)),
        ({}, (6, 1, 0)),
    ],
)
async def test_whatever_a_server_counts_the_slot_is_given_back_with_whole_numbers(
    told: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    async def odd(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("fine", "stop") + event({"choices": [], "usage": told}) + b"data: [DONE]\n\n")

    sent: list[dict[str, Any]] = []
    metrics = WorkerMetrics(Labels("w", "tcp://w", "tiny", "api", None), lambda: None)
    runner = CallRunner(metrics.counting(sent.append), lambda engine, error: None)
    call = ModelCall("triage", "judge", "tiny", (Template("Tell me about the sea"),), 5)
    async with answering(odd) as address, started(address) as engine:
        runner.grant(Grant("k", 1))
        await runner.run(engine, call, "k", {})
    ended = AttemptEnded.from_wire(sent[-1])
    assert ended.outcome == "finished"
    assert (ended.prompt_tokens, ended.output_tokens, ended.cached_tokens) == counts
    assert all(type(count) is int for count in (ended.prompt_tokens, ended.output_tokens, ended.cached_tokens))
    assert "fmware_worker_attempts" in {family.name for family in metrics.series()}


async def test_the_key_comes_from_environment_or_file_and_shows_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys: list[str] = []

    async def refuse(asked: Asked, write: Write) -> None:
        keys.append(asked.headers["authorization"])
        await write(whole(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}))

    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    async with answering(refuse) as address:
        for source in ({"api_key_env": "MY_KEY"}, {"api_key_file": str(path)}):
            async with started(address, **source) as engine:
                with pytest.raises(EngineCrashedError, match="expired") as caught:
                    await collect(engine, ask())
                shown = [repr(engine), str(caught.value), repr(caught.value.__cause__), caplog.text]
                assert not any(KEY in text for text in shown)
                assert "MY_KEY" in str(caught.value) or str(path) in str(caught.value)
    assert keys == [f"Bearer {KEY}"] * 2


@pytest.mark.parametrize("header", [f"X-Token: {KEY}", f"Authorization: Bearer {KEY}", f"authorization: Bearer {KEY}"])
async def test_what_the_environment_holds_for_openai_goes_nowhere_else(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", KEY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", header)
    async with stubbed("vllm", text="fine") as (engine, stub):
        await collect(engine, ask(max_tokens=4))
        await engine.count_tokens(ask())
        assert {asked.path for asked in stub.seen} == {"/v1/completions", "/tokenize"}
        assert KEY not in str([asked.headers for asked in stub.seen])
        assert {asked.headers["authorization"] for asked in stub.seen} == {"Bearer none"}


async def test_an_expired_key_is_told_when_the_replica_starts() -> None:
    async def refuse(asked: Asked, write: Write) -> None:
        await write(whole(403, {"error": {"message": "no"}}))

    async with serving_http(refuse) as address:
        with pytest.raises(EngineLoadError, match=r"refuses the key.*HTTP 403.*renew"):
            await OpenAIEngine(base_url=address, model="tiny").start()


async def test_a_key_that_is_missing_names_where_it_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setenv("ODD_KEY", "two words")
    sources = (
        ({"api_key_env": "NO_KEY"}, DeploymentError),  # of a process that runs: it will not come
        ({"api_key_env": "ODD_KEY"}, DeploymentError),
        ({"api_key_file": str(tmp_path / "none")}, EngineLoadError),  # tried again
    )
    for source, error in sources:
        with pytest.raises(error, match=r"NO_KEY|ODD_KEY|none") as caught:
            await OpenAIEngine(base_url="http://127.0.0.1:9/v1", model="m", **source).start()
        assert "two words" not in str(caught.value)


def test_a_key_in_the_deployment_is_refused_unseen() -> None:
    for arguments in ({"api_key": KEY}, {"base_url": f"http://user:{KEY}@host/v1"}):
        with pytest.raises(DeploymentError, match="api_key_env") as caught:
            create_engine("openai", {"base_url": "http://host/v1", "model": "m", **arguments})
        assert KEY not in str(caught.value)
