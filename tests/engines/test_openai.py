"""OpenAI's protocol in its dialects, and every way in which a server fails."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dask_fmware.errors import (
    CapacityError,
    ContextOverflowError,
    DeploymentError,
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    FMwareError,
    OutputFormatError,
    SpecError,
)
from dask_fmware.model.engine import Message, Sampling, Usage
from dask_fmware.testing import ScriptedEngine
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.openai_faults import fault_of, retry_after_s
from dask_fmware_workers.engines.openai_server import OpenAIEngine
from tests.engines.asking import WAIT_S, ask, collect, text_of, until
from tests.engines.openai_stub import (
    MODELS,
    STREAM,
    Asked,
    OpenAIStub,
    Write,
    answering,
    event,
    piece,
    serving_http,
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
async def test_a_format_that_max_tokens_cuts_is_an_error(dialect: str) -> None:
    async with stubbed(dialect) as (engine, _):
        for fields in ({"choices": ("xyzzy plugh",)}, {"json_schema": SCHEMA}):
            with pytest.raises(OutputFormatError, match="max_tokens"):
                await collect(engine, ask(max_tokens=2, **fields))


async def test_a_label_that_comes_bare_is_taken_as_it_is() -> None:
    async def bare(asked: Asked, write: Write) -> None:
        await write(STREAM + piece("or") + piece("der", "stop") + usage(5, 2) + b"data: [DONE]\n\n")

    async with answering(bare) as address, started(address) as engine:
        assert text_of(await collect(engine, ask(choices=("order", "search")))) == "order"


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


async def test_an_expired_key_is_told_when_the_replica_starts() -> None:
    async def refuse(asked: Asked, write: Write) -> None:
        await write(whole(403, {"error": {"message": "no"}}))

    async with serving_http(refuse) as address:
        with pytest.raises(EngineLoadError, match=r"refuses the key.*HTTP 403.*renew"):
            await OpenAIEngine(base_url=address, model="tiny").start()


async def test_a_key_that_is_missing_names_where_it_should_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setenv("ODD_KEY", "two words")
    sources = ({"api_key_env": "NO_KEY"}, {"api_key_env": "ODD_KEY"}, {"api_key_file": str(tmp_path / "none")})
    for source in sources:
        with pytest.raises(EngineLoadError, match=r"NO_KEY|ODD_KEY|none") as caught:
            await OpenAIEngine(base_url="http://127.0.0.1:9/v1", model="m", **source).start()
        assert "two words" not in str(caught.value)


def test_a_key_in_the_deployment_is_refused_unseen() -> None:
    for arguments in ({"api_key": KEY}, {"base_url": f"http://user:{KEY}@host/v1"}):
        with pytest.raises(DeploymentError, match="api_key_env") as caught:
            create_engine("openai", {"base_url": "http://host/v1", "model": "m", **arguments})
        assert KEY not in str(caught.value)


# -- limits and faults ---------------------------------------------------------------------------


async def sound(write: Write) -> None:
    await write(STREAM + piece("fine", "stop") + usage(5, 1) + b"data: [DONE]\n\n")


async def test_a_rate_limit_is_waited_out() -> None:
    asked_for = itertools.count()

    async def limited(asked: Asked, write: Write) -> None:
        if next(asked_for) < 2:
            await write(whole(429, {"error": {"type": "rate_limit"}}, Retry_After_Ms="60"))
        else:
            await sound(write)

    async with answering(limited) as address, started(address) as engine:
        assert text_of(await collect(engine, ask())) == "fine"
        assert engine.spent.rate_limited == 2


@pytest.mark.parametrize(
    ("headers", "code"), [({"Retry_After": "3600"}, "rate_limit_exceeded"), ({}, "insufficient_quota")]
)
async def test_a_limit_beyond_the_bound_is_no_capacity(headers: dict[str, str], code: str) -> None:
    async def limited(asked: Asked, write: Write) -> None:
        await write(whole(429, {"error": {"code": code, "message": "the secret prompt"}}, **headers))

    async with answering(limited) as address, started(address, rate_limit_wait_s=5) as engine:
        with pytest.raises(CapacityError, match=r"rate_limit_wait_s=5|insufficient_quota") as caught:
            await collect(engine, ask())
        assert "secret" not in str(caught.value)
        await until(lambda: engine.state().running == 0)


async def test_a_waiting_request_can_be_aborted_while_the_limit_lasts() -> None:
    async def limited(asked: Asked, write: Write) -> None:
        await write(whole(429, {}, Retry_After="20"))

    async with answering(limited) as address, started(address) as engine:
        consumer = asyncio.create_task(collect(engine, ask("a")))
        await until(lambda: engine.spent.rate_limited == 1)
        await engine.abort("a")
        assert (await consumer)[-1].finish_reason == "abort"


def _stream(*parts: bytes) -> Any:
    async def answer(asked: Asked, write: Write) -> None:
        await write(STREAM + b"".join(parts))

    return answer


def _status(status: int, body: Any = None) -> Any:
    async def answer(asked: Asked, write: Write) -> None:
        await write(whole(status, body or {"error": {"message": "Tell me about the sea"}}))

    return answer


async def _hang(asked: Asked, write: Write) -> None:
    await asyncio.sleep(WAIT_S)


async def _stall(asked: Asked, write: Write) -> None:
    await write(STREAM + piece("half"))
    for _ in range(600):
        await write(b": keep-alive\n\n")
        await asyncio.sleep(0.05)


OVERFLOW = {"error": {"code": "context_length_exceeded", "message": "too long: Tell me about the sea"}}
FAULTS: dict[str, tuple[Any, type[FMwareError], str]] = {
    "500": (_status(500), EngineCrashedError, "HTTP 500"),
    "503": (_status(503), EngineCrashedError, "HTTP 503"),
    "not JSON": (_status(502, b"<html>bad gateway</html>"), EngineCrashedError, "HTTP 502"),
    "unknown model": (_status(404), EngineError, "HTTP 404"),
    "overflow": (_status(400, OVERFLOW), ContextOverflowError, "context"),
    "refused": (_status(400), EngineError, "HTTP 400"),
    "hang": (_hang, EngineCrashedError, "no answer within"),
    "stall": (_stall, EngineCrashedError, "no progress"),
    "nothing": (_stream(), EngineCrashedError, "cut"),
    "cut": (_stream(piece("half")), EngineCrashedError, "cut"),
    "garbage": (_stream(piece("half"), b"data: {what?\n\n"), EngineCrashedError, "not OpenAI's protocol"),
    "wrong shape": (_stream(event({"choices": [{"delta": 7}]})), EngineCrashedError, "not OpenAI's protocol"),
    "error event": (_stream(piece("half"), event({"error": {"message": "oh"}})), EngineCrashedError, "in the middle"),
    "filtered": (_stream(piece("half", "content_filter")), EngineError, "content_filter"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_is_a_clear_error_without_a_word_of_the_prompt(name: str) -> None:
    answer, kind, message = FAULTS[name]
    patience_s = 0.3 if name in ("hang", "stall") else WAIT_S
    async with (
        answering(answer) as address,
        started(address, first_token_timeout_s=patience_s, stall_timeout_s=patience_s) as engine,
    ):
        with pytest.raises(kind, match=message) as caught:
            await collect(engine, ask())
        assert type(caught.value) is kind
        assert "about the sea" not in f"{caught.value} {caught.value.__cause__!r}"
        await until(lambda: engine.state().running == 0)


async def test_a_server_that_counts_nothing_still_gives_usage() -> None:
    async with answering(_stream(piece("a"), piece("b", "stop"))) as address, started(address) as engine:
        deltas = await collect(engine, ask())
    assert deltas[-1].usage == Usage(6, 2)


async def test_a_refused_format_is_an_output_format_error() -> None:
    async with answering(_status(400)) as address, started(address) as engine:
        with pytest.raises(OutputFormatError, match="'dialect'"):
            await collect(engine, ask(json_schema=SCHEMA))


async def test_a_server_that_is_gone_is_a_crash_and_cannot_be_started() -> None:
    async with answering(_hang) as address:
        engine = OpenAIEngine(base_url=address, model="tiny", first_token_timeout_s=5)
        await engine.start()
    with pytest.raises(EngineCrashedError, match="the connection failed"):
        await collect(engine, ask())
    await engine.close()
    with pytest.raises(EngineLoadError, match="cannot be reached"):
        await engine.start()
    await engine.close()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (MODELS, "has: other, tiny"),
        (whole(200, b"<html>"), "does not speak"),
        (whole(200, {"hello": "there"}), "does not speak"),
        (whole(500, {}), "HTTP 500"),
    ],
)
async def test_what_start_finds_is_told_with_the_next_step(listed: bytes, message: str) -> None:
    async def handle(asked: Asked, write: Write) -> None:
        await write(listed)

    async with serving_http(handle) as address:
        engine = OpenAIEngine(base_url=address, model="missing")
        with pytest.raises(EngineLoadError, match=message):
            await engine.start()
        await engine.close()


async def test_a_server_that_hangs_at_start_is_given_up() -> None:
    async with serving_http(_hang) as address:
        engine = OpenAIEngine(base_url=address, model="tiny", first_token_timeout_s=0.2)
        with pytest.raises(EngineLoadError, match="cannot be reached"):
            await engine.start()
        await engine.close()


async def test_a_server_without_a_list_of_models_is_taken_at_its_word() -> None:
    async def handle(asked: Asked, write: Write) -> None:
        if asked.path == "/v1/models":
            await write(whole(404, {}))
        else:
            await sound(write)

    async with serving_http(handle) as address, started(address) as engine:
        assert text_of(await collect(engine, ask())) == "fine"


def test_a_retry_is_told_in_seconds_milliseconds_or_as_a_date() -> None:
    now = 1_700_000_000.0
    assert retry_after_s(429, {"retry-after": "3"}, None, now) == 3.0
    assert retry_after_s(429, {"retry-after-ms": "250", "retry-after": "3"}, None, now) == 0.25
    assert retry_after_s(503, {"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT"}, None, now) == 10.0
    assert retry_after_s(429, {}, None, now) == 1.0
    assert retry_after_s(429, {"retry-after": "soon"}, None, now) == 1.0
    assert retry_after_s(503, {}, None, now) is None
    assert retry_after_s(500, {"retry-after": "3"}, None, now) is None


def test_what_a_server_says_is_never_passed_on() -> None:
    body = {"error": {"type": "oh dear, my prompt", "code": "bad_thing", "message": "my prompt"}}
    for status in (400, 401, 404, 429, 500):
        text = str(fault_of(status, body, ask(), "here", "file 'k'"))
        assert "my prompt" not in text
        assert f"HTTP {status}" in text


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "dialect": ({"dialect": "klingon"}, "openai, vllm, llama.cpp"),
    "address": ({"base_url": "host:8000"}, "no http or https"),
    "two keys": ({"api_key_env": "A", "api_key_file": "b"}, "not both"),
    "slots": ({"slots": 0}, "slots=0"),
    "timeout": ({"stall_timeout_s": 0}, "stall_timeout_s=0"),
    "price": ({"price_per_million_tokens": {"input": 1}}, "input and output"),
    "negative price": ({"price_per_million_tokens": {"input": 1, "output": -1}}, "at least 0"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        create_engine("openai", {"base_url": "http://host/v1", "model": "m", **arguments})
