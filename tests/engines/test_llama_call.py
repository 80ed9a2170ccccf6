"""The hand-over between llama.cpp's thread and the loop, with a scripted llama.cpp."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dask_fmware.errors import ContextOverflowError, EngineCrashedError, OutputFormatError
from dask_fmware.model.engine import Delta, Sampling, Usage
from dask_fmware.testing.asking import ask
from dask_fmware_workers.engines.llama_call import LlamaCall


def chunk(text: str, predicted: int, finish_reason: str | None = None, cached: int = 0) -> dict[str, Any]:
    """A chunk as llama.cpp sends it, without what nobody reads."""
    return {
        "choices": [{"text": text, "finish_reason": finish_reason}],
        "timings": {"predicted_n": predicted, "cache_n": cached},
    }


class Scripted:
    """Plays chunks to the callback until it answers True, as llama.cpp does."""

    def __init__(self, *chunks: dict[str, Any] | Callable[[], None]) -> None:
        self.chunks = chunks
        self.played = 0
        self.body: dict[str, Any] = {}

    def complete(self, body: dict[str, Any], on_chunk: Callable[[dict[str, Any]], bool]) -> None:
        self.body = body
        for item in self.chunks:
            if callable(item):
                item()
                continue
            self.played += 1
            if on_chunk(item):
                return


async def play(server: Any, **fields: Any) -> tuple[LlamaCall, list[Delta]]:
    """Serve a call in a thread and read it to its end."""
    call = LlamaCall(ask(**fields), asyncio.get_running_loop())
    call.prepare([1, 2, 3], default_seed=5)
    deltas = []
    async with asyncio.timeout(10):
        served = asyncio.create_task(asyncio.to_thread(call.serve, server))
        while not deltas or deltas[-1].finish_reason is None:
            deltas.append(await call.next_delta())
        await served
    return call, deltas


async def test_tokens_that_were_held_back_are_counted_with_the_next_text() -> None:
    server = Scripted(chunk("", 0), chunk("a", 1), chunk("😀", 4, cached=2), chunk("", 5, "stop", cached=2))
    _, deltas = await play(server)
    assert [(delta.text, delta.tokens) for delta in deltas] == [("a", 1), ("😀", 3), ("", 1)]
    assert deltas[-1].usage == Usage(3, 5, 2)


async def test_an_abort_stops_llama_cpp_at_its_next_chunk() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        assert go_on.wait(10)

    server = Scripted(chunk("a", 1), pause, *(chunk("b", count) for count in range(2, 100)))
    call = LlamaCall(ask(), asyncio.get_running_loop())
    served = asyncio.create_task(asyncio.to_thread(call.serve, server))
    await asyncio.to_thread(reached.wait, 10)
    call.abort()
    call.abort()
    go_on.set()
    assert (await call.next_delta()).text == "a"
    last = await call.next_delta()
    await served
    assert (last.finish_reason, last.usage) == ("abort", Usage(0, 1, 0))
    assert server.played == 2  # one before the abort and the one that learns of it


async def test_a_stream_without_an_end_is_a_crash_not_a_hang() -> None:
    with pytest.raises(EngineCrashedError, match="without a finish reason"):
        await play(Scripted(chunk("a", 1)))


async def test_an_exception_in_llama_cpp_reaches_the_consumer() -> None:
    def fail() -> None:
        raise MemoryError("no room")

    with pytest.raises(EngineCrashedError, match="MemoryError: no room"):
        await play(Scripted(fail))


@pytest.mark.parametrize(
    ("error", "fields", "expected"),
    [
        ({"code": 400, "type": "exceed_context_size_error", "message": "3000 tokens"}, {}, ContextOverflowError),
        ({"code": 400, "message": "failed to parse grammar"}, {"json_schema": {}}, OutputFormatError),
        ({"code": 500, "message": "decode failed"}, {"json_schema": {}}, EngineCrashedError),
        ({"code": 400, "message": "odd"}, {}, EngineCrashedError),
        ({}, {}, EngineCrashedError),
    ],
)
async def test_errors_of_llama_cpp_are_named_by_blame(
    error: dict[str, Any], fields: dict[str, Any], expected: type[Exception]
) -> None:
    with pytest.raises(expected, match=error.get("message", "no reason given")):
        await play(Scripted({"error": error}), **fields)


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_an_answer_without_its_format_is_handed_on_with_what_it_took(reason: str) -> None:
    server = Scripted(chunk("not", 1), chunk(" json", 2, reason, cached=1))
    _, deltas = await play(server, json_schema={"type": "object"})
    assert (deltas[-1].finish_reason, deltas[-1].usage) == (reason, Usage(3, 2, 1))


async def test_the_request_is_written_in_llama_cpps_words() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=3, seed=2**32 - 1, stop=("x",))
    server = Scripted(chunk("a", 1, "length"))
    await play(server, max_tokens=9, sampling=sampling, choices=("a", "b"))
    expected = {"prompt": [1, 2, 3], "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ["x"]}
    assert server.body.items() >= expected.items()
    assert server.body["seed"] != 2**32 - 1  # llama.cpp would draw one
    assert server.body["grammar"] == 'root ::= "a" | "b"'


async def test_a_list_without_end_is_bounded_before_llama_cpp_writes_it_out() -> None:
    server = Scripted(chunk("a", 1, "length"))
    await play(server, max_tokens=9, json_schema={"type": "array", "minItems": 2, "maxItems": 10**9})
    assert server.body["json_schema"] == {"type": "array", "minItems": 2, "maxItems": 144}


async def test_defaults_are_left_to_the_engine() -> None:
    server = Scripted(chunk("a", 1, "length"))
    await play(server, sampling=Sampling())
    assert server.body["seed"] == 5
    assert not {"temperature", "top_p", "top_k", "grammar", "json_schema"} & set(server.body)


def test_a_closed_loop_ends_the_thread() -> None:
    loop = asyncio.new_event_loop()
    call = LlamaCall(ask(), loop)
    loop.close()
    server = Scripted(chunk("a", 1), chunk("b", 2))
    call.serve(server)  # type: ignore[arg-type]
    assert server.played == 1
