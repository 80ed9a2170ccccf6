"""Every way in which a server of OpenAI's protocol fails: limits, faults, silence, wrong answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from typing import Any

import pytest
from distributed import Security

from dask_fmware.errors import (
    CapacityError,
    ContextOverflowError,
    DeploymentError,
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    FMwareError,
    OutputFormatError,
)
from dask_fmware.model.engine import Usage
from dask_fmware.testing.asking import WAIT_S, ask, collect, text_of, until
from dask_fmware_workers.engines import create_engine, rate_limit
from dask_fmware_workers.engines.openai_faults import fault_of, retry_after_s
from dask_fmware_workers.engines.openai_server import OpenAIEngine
from tests.engines.openai_stub import (
    MODELS,
    SCHEMA,
    STREAM,
    Asked,
    Write,
    answering,
    event,
    piece,
    serving_http,
    started,
    usage,
    whole,
)

pytest.importorskip("openai")


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
    assert next(asked_for) == 3


async def test_who_waits_for_a_limit_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "SIGN_S", 0.02)
    asked_for = itertools.count()

    async def limited(asked: Asked, write: Write) -> None:
        if next(asked_for) == 0:
            await write(whole(429, {"error": {"type": "rate_limit"}}, Retry_After_Ms="200"))
        else:
            await sound(write)

    async with answering(limited) as address, started(address) as engine:
        deltas = await collect(engine, ask())
    signs = [delta for delta in deltas if (delta.text, delta.tokens, delta.finish_reason) == ("", 0, None)]
    assert len(signs) >= 3
    assert (text_of(deltas), deltas[-1].usage) == ("fine", Usage(5, 1))


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
        assert caught.value.shut_s == pytest.approx(3600.0 if headers else 0.0, abs=60.0)
        await until(lambda: engine.state().running == 0)


async def test_a_waiting_request_can_be_aborted_while_the_limit_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "SIGN_S", 0.02)

    async def limited(asked: Asked, write: Write) -> None:
        await write(whole(429, {}, Retry_After="20"))

    async with answering(limited) as address, started(address) as engine:
        deltas = engine.generate(ask("a"))
        assert (await anext(deltas)).finish_reason is None  # a sign that it waits
        await engine.abort("a")
        assert [delta async for delta in deltas][-1].finish_reason == "abort"


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


async def _endless_line(asked: Asked, write: Write) -> None:
    await write(STREAM + piece("half") + b"data: ")
    while True:
        await write(bytes(1 << 20))


OVERFLOW = {"error": {"code": "context_length_exceeded", "message": "too long: Tell me about the sea"}}
FAULTS: dict[str, tuple[Any, type[FMwareError], str]] = {
    "500": (_status(500), EngineCrashedError, "HTTP 500"),
    "503": (_status(503), EngineCrashedError, "HTTP 503"),
    "not JSON": (_status(502, b"<html>bad gateway</html>"), EngineCrashedError, "HTTP 502"),
    "another model": (_status(404), EngineCrashedError, "HTTP 404"),  # the server was started again, with that one
    "overflow": (_status(400, OVERFLOW), ContextOverflowError, "context"),
    "refused": (_status(400), EngineError, "HTTP 400"),
    "hang": (_hang, EngineCrashedError, "no answer within"),
    "stall": (_stall, EngineCrashedError, "no progress"),
    "nothing": (_stream(), EngineCrashedError, "cut"),
    "cut": (_stream(piece("half")), EngineCrashedError, "cut"),
    "garbage": (_stream(piece("half"), b"data: {what?\n\n"), EngineCrashedError, "not OpenAI's protocol"),
    "wrong shape": (_stream(event({"choices": [{"delta": 7}]})), EngineCrashedError, "not OpenAI's protocol"),
    "endless line": (_endless_line, EngineCrashedError, "not OpenAI's protocol"),
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
        await write(listed if asked.path == "/v1/models" else whole(404, {}))

    async with serving_http(handle) as address:
        engine = OpenAIEngine(base_url=address, model="missing")
        with pytest.raises(EngineLoadError, match=message):
            await engine.start()
        await engine.close()


async def _reached_in_vain(address: str) -> str:
    engine = OpenAIEngine(base_url=address, model="tiny", first_token_timeout_s=WAIT_S)
    with pytest.raises(EngineLoadError, match="cannot be reached") as caught:
        await engine.start()
    await engine.close()
    return str(caught.value)


async def test_a_server_that_cannot_be_reached_is_told_with_what_the_system_says() -> None:
    assert "(gaierror)" in await _reached_in_vain("http://nowhere.invalid/v1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "(ConnectionRefusedError)" in await _reached_in_vain(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")


async def test_a_certificate_that_is_not_trusted_is_told_with_the_next_step() -> None:
    pytest.importorskip("cryptography")
    secret = Security.temporary().get_listen_args("scheduler")["ssl_context"]

    def shake_hands() -> None:
        taken, _ = listening.accept()
        with contextlib.suppress(OSError), taken, secret.wrap_socket(taken, server_side=True):
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        shaking = asyncio.create_task(asyncio.to_thread(shake_hands))
        told = await _reached_in_vain(f"https://127.0.0.1:{listening.getsockname()[1]}/v1")
        listening.close()
        await shaking
    assert "(SSLCertVerificationError: self-signed certificate; SSL_CERT_FILE on the worker" in told


async def test_a_server_that_hangs_at_start_is_given_up() -> None:
    async with serving_http(_hang) as address:
        engine = OpenAIEngine(base_url=address, model="tiny", first_token_timeout_s=0.2)
        with pytest.raises(EngineLoadError, match="cannot be reached"):
            await engine.start()
        await engine.close()


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
async def test_a_server_need_not_show_a_list_of_models(status: int) -> None:
    async def handle(asked: Asked, write: Write) -> None:
        if asked.path == "/v1/models":
            await write(whole(status, {}))
        else:
            await sound(write)

    async with serving_http(handle) as address, started(address) as engine:
        assert text_of(await collect(engine, ask())) == "fine"


async def test_a_name_that_is_not_listed_is_asked_for_a_token_and_told(caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[Any] = []

    async def answer(asked: Asked, write: Write) -> None:
        bodies.append(asked.body)
        await sound(write)

    extra = {"reasoning_effort": "low"}
    async with answering(answer) as address, started(address, model="alias", extra=extra) as engine:
        assert [(body["model"], body["max_completion_tokens"]) for body in bodies] == [("alias", 1)]
        assert bodies[0]["reasoning_effort"] == "low"
        assert text_of(await collect(engine, ask())) == "fine"
    assert "is not in its list (it has: other, tiny)" in caplog.text


def test_a_balance_that_is_used_up_sends_calls_elsewhere_as_a_quota_does() -> None:
    fault = fault_of(402, {"error": {"code": "insufficient_balance"}}, ask(), "here", "file 'k'")
    assert type(fault) is CapacityError
    assert retry_after_s(402, {"retry-after": "3"}, None, 0.0) is None


def test_a_retry_is_told_in_seconds_milliseconds_or_as_a_date() -> None:
    now = 1_700_000_000.0
    assert retry_after_s(429, {"retry-after": "3"}, None, now) == 3.0
    assert retry_after_s(429, {"retry-after-ms": "250", "retry-after": "3"}, None, now) == 0.25
    assert retry_after_s(503, {"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT"}, None, now) == 10.0
    assert retry_after_s(429, {}, None, now) == 1.0
    assert retry_after_s(429, {"retry-after": "soon"}, None, now) == 1.0
    assert retry_after_s(503, {}, None, now) is None
    assert retry_after_s(500, {"retry-after": "3"}, None, now) is None
    for odd in ("soon", "Tue, 14 Nov 2023 22:13:30 +9999999999999"):
        assert retry_after_s(429, {"retry-after": odd}, None, now) == 1.0
    for endless in ("inf", "1e300", "Tue, 14 Nov 2123 22:13:30 GMT"):
        assert retry_after_s(429, {"retry-after": endless}, None, now) == 86_400.0


def test_what_a_server_says_is_never_passed_on() -> None:
    body = {"error": {"type": "oh dear, my prompt", "code": "bad_thing", "message": "my prompt"}}
    for status in (400, 401, 404, 429, 500):
        text = str(fault_of(status, body, ask(), "here", "file 'k'"))
        assert "my prompt" not in text
        assert f"HTTP {status}" in text


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "dialect": ({"dialect": "klingon"}, "openai, vllm, llama.cpp"),
    "address": ({"base_url": "host:8000"}, "no http or https"),
    "brackets": ({"base_url": "http://user:secret@[::1/v1"}, "host or port that is none"),
    "port": ({"base_url": "http://user:secret/v1"}, "host or port that is none"),
    "high port": ({"base_url": "http://host:99999/v1"}, "host or port that is none"),
    "white space": ({"base_url": "http://host\n/v1"}, "white space"),
    "two keys": ({"api_key_env": "A", "api_key_file": "b"}, "not both"),
    "slots": ({"slots": 0}, "slots=0"),
    "timeout": ({"stall_timeout_s": 0}, "stall_timeout_s=0"),
    "price": ({"price_per_million_tokens": {"input": 1}}, "input and output"),
    "negative price": ({"price_per_million_tokens": {"input": 1, "output": -1}}, "at least 0"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message) as caught:
        create_engine("openai", {"base_url": "http://host/v1", "model": "m", **arguments})
    assert "secret" not in str(caught.value)
