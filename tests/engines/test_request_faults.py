"""Faults of one request on an engine that batches: the others go on, and so does the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dask_fmware.errors import EngineCrashedError, EngineError, OutputFormatError
from dask_fmware.model.engine import EngineState, Request
from dask_fmware.testing.asking import ask, collect, text_of
from dask_fmware_workers.engines.detokenizer import Detokenizer
from dask_fmware_workers.engines.token_engine import Piece, RequestFaultError, TokenEngine
from dask_fmware_workers.engines.transformers_loop import Decoder, Loop, _Answer

END = 9


class Tokenizer:
    """As much of one as an engine uses: a token is the text of its number."""

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}

    def encode(self, text: str) -> list[int]:
        return [1] * len(text.split())


class Backend:
    """The `Loop` of transformers with its model played; the text of one request cannot be made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fault: Exception | None, step_error: str | None) -> None:
        self.tokenizer = Tokenizer()
        self._batches = Loop(loop, None)  # type: ignore[arg-type]  # nothing is loaded
        self._loop, self._fault, self._step_error = loop, fault, step_error

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def state(self) -> EngineState:
        return EngineState()

    async def generate(
        self, number: str, request: Request, tokens: Sequence[int], seed: int, take: Callable[[Piece], None]
    ) -> None:
        def decode(token: int) -> str:
            if request.request_id == "bad" and self._fault is not None:
                raise self._fault
            return f"{token} "

        over = self._loop.create_future()
        self._batches._answers[number] = _Answer(Detokenizer(decode), 4, {END}, take, over)
        error = self._step_error if request.request_id == "bad" else None
        output = SimpleNamespace(request_id=number, generated_tokens=[1, 2, END], error=error, is_finished=lambda: True)
        self._loop.call_soon(self._batches._hand_out, [output])
        await over


class Engine(TokenEngine):
    name = "played"

    def __init__(self, fault: Exception | None = None, step_error: str | None = None) -> None:
        super().__init__("tiny", slots=2, context_tokens=64, seed=0)
        self._faults = fault, step_error

    def _make_backend(self, loop: asyncio.AbstractEventLoop) -> Backend:
        return Backend(loop, *self._faults)

    def _version(self) -> str:
        return "1"


async def failed(engine: Engine, **fields: Any) -> Exception:
    """How the bad one of two requests ends; the other is to be whole."""
    await engine.start()
    bad, good = await asyncio.gather(
        collect(engine, ask("bad", **fields)), collect(engine, ask("good")), return_exceptions=True
    )
    await engine.close()
    assert isinstance(good, list)
    assert text_of(good) == "1 2 9 "
    assert isinstance(bad, Exception)
    return bad


async def test_a_text_that_cannot_be_made_is_a_fault_of_its_request() -> None:
    error = await failed(Engine(RuntimeError("Invalid prefix encountered after: the secret prompt")))
    assert type(error) is EngineError
    assert "'bad' failed (RuntimeError), and no other" in str(error)
    assert "secret" not in str(error)


async def test_a_step_of_the_model_that_fails_is_a_crash() -> None:
    assert type(await failed(Engine(step_error="CUDAError"))) is EngineCrashedError


async def test_a_format_that_is_refused_stays_a_fault_of_its_format() -> None:
    assert type(await failed(Engine(ValueError("no")), choices=("a", "b"))) is OutputFormatError


def test_the_fault_of_a_request_tells_the_kind_alone() -> None:
    assert str(RequestFaultError(ValueError("the secret prompt"))) == "ValueError"


class Stream:
    """A `DecodeStream` that fails once on a token."""

    made: list[list[int]]
    fails_on: int | None

    def __init__(self, ids: list[int], skip_special_tokens: bool) -> None:
        assert skip_special_tokens
        self.made.append(ids)

    def step(self, tokenizer: Any, token: int) -> str:
        if token == self.fails_on:
            type(self).fails_on = None
            raise Exception("Invalid prefix encountered")  # as the library does
        return f"{token} "


@pytest.fixture
def stream() -> type[Stream]:
    return type("Fresh", (Stream,), {"made": [], "fails_on": None})


def test_a_stream_of_text_that_fails_is_begun_anew_with_the_token(stream: Any) -> None:
    stream.fails_on = 4
    decoder = Decoder(stream, SimpleNamespace(decode=lambda ids, skip_special_tokens: "x"), list(range(20)))
    assert "".join(decoder.step(token) or "" for token in (3, 4, 5)) == "3 4 5 "
    assert stream.made == [list(range(12, 20)), []]


def test_a_text_is_not_read_after_half_a_character(stream: Any) -> None:
    Decoder(stream, SimpleNamespace(decode=lambda ids, skip_special_tokens: "x\ufffd"), [1, 2, 3])
    assert stream.made == [[]]
