"""What every engine promises that embeds, and that the others refuse it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import ContextOverflowError, DeploymentError, SpecError
from dask_fmware.model.engine import Engine, Request, Usage
from dask_fmware.testing.asking import WAIT_S, ask, collect, is_idle, until
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.tiny_gguf import TinyModel
from dask_fmware_workers.engines.word_vectors import word_vector
from tests.engines.factories import FACTORIES, marks
from tests.engines.servers import llama_server
from tests.engines.tiny_bert import write_tiny_bert

TEXTS = ("The sea is wide", "A river runs into the sea", "The sea is wide")


def _openai(slots: int, context_tokens: int, **arguments: Any) -> Engine:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("openai")
    at = {"base_url": f"{llama_server(slots, context_tokens, embeds=True)}/v1", "model": "tiny", "dialect": "llama.cpp"}
    return create_engine("openai", {**at, "slots": slots, "context_tokens": context_tokens, **arguments})


def _llama_cpp(**arguments: Any) -> Engine:
    pytest.importorskip("xllamacpp")
    return create_engine("llama.cpp", {"tiny": {"layers": 2, "width": 128, "heads": 4}, **arguments})


def _encoder(**arguments: Any) -> Engine:
    """Of the kind that most models that embed are: it reads a text both ways and has no KV cache."""
    pytest.importorskip("xllamacpp")
    path = write_tiny_bert(Path(os.environ["XDG_CACHE_HOME"]) / "tiny-bert.gguf")
    return create_engine("llama.cpp", {"gguf": str(path), **arguments})


EMBEDDERS: dict[str, Callable[..., Engine]] = {
    "emulated": FACTORIES["emulated"],
    "scripted": FACTORIES["scripted"],
    "openai": _openai,
    "llama.cpp": _llama_cpp,
    "llama.cpp, an encoder": _encoder,
}


@pytest.fixture(params=list(EMBEDDERS))
def embedding(request: pytest.FixtureRequest) -> Any:
    """A context manager that starts an engine that embeds."""

    @asynccontextmanager
    async def context(**arguments: Any) -> AsyncIterator[Engine]:
        wanted = {"slots": 2, "context_tokens": 128, "embeds": True, **arguments}
        engine = EMBEDDERS[request.param](**wanted)
        try:
            await engine.start()
            yield engine
        finally:
            await engine.close()

    return context


def texts(*given: str, name: str = "r") -> Request:
    return Request(name, 1, texts=given)


def are_close(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(isclose(a, b, abs_tol=1e-3) for a, b in zip(one, other, strict=True))


async def test_it_gives_a_vector_of_length_one_for_each_text_in_their_order(embedding: Any) -> None:
    async with embedding() as engine:
        assert engine.capabilities.embeds
        *body, last = await collect(engine, texts(*TEXTS))
        (alone,) = (await collect(engine, texts(TEXTS[1])))[-1].vectors
    assert all(delta.finish_reason is None and delta.vectors is None for delta in body)
    assert (last.finish_reason, last.text) == ("stop", "")
    first, second, third = last.vectors
    assert are_close(first, third)
    assert not are_close(first, second)
    assert are_close(second, alone)
    assert all(isclose(sqrt(sum(x * x for x in vector)), 1.0, abs_tol=1e-3) for vector in last.vectors)


async def test_a_long_list_has_its_vectors_in_its_order_and_gives_signs_of_life(embedding: Any) -> None:
    asked = [f"the {word} {word}" for word in ("sea", "river", "a")] * 30
    async with embedding() as engine:
        *signs, last = await collect(engine, texts(*asked))
        each = {text: (await collect(engine, texts(text)))[-1].vectors[0] for text in asked[:3]}
        counted = await engine.count_tokens(texts(*asked))
    assert signs
    assert len(last.vectors) == len(asked)
    assert all(are_close(vector, each[text]) for vector, text in zip(last.vectors, asked, strict=True))
    assert last.usage == Usage(counted, 1, 0)


async def test_its_usage_is_the_tokens_of_all_texts_and_one_of_output(embedding: Any) -> None:
    async with embedding() as engine:
        deltas = await collect(engine, texts(*TEXTS))
        counted = await engine.count_tokens(texts(*TEXTS))
        each = [await engine.count_tokens(texts(text)) for text in TEXTS]
    assert counted == sum(each)
    assert deltas[-1].usage == Usage(counted, 1, 0)
    assert sum(delta.tokens for delta in deltas) == 1


async def test_each_text_must_fit_the_context_and_all_of_them_need_not(embedding: Any) -> None:
    async with embedding(context_tokens=16) as engine:
        last = (await collect(engine, texts(*["The sea is wide"] * 20)))[-1]
        assert len(last.vectors) == 20
        with pytest.raises(ContextOverflowError, match="more than the context of 16 tokens"):
            await collect(engine, texts("short", "word " * 100))
        await until(lambda: is_idle(engine))


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (ask(), "it embeds texts and writes none"),
        (texts("a", ""), "texts must be one or more, none of them empty"),
        (texts(), "texts must be one or more, none of them empty"),
        (texts("half \ud800"), "half of a surrogate pair"),
        (Request("r", 1, prompt="a", texts=("a",)), "give exactly one of prompt, messages and texts"),
    ],
)
async def test_it_refuses_what_it_cannot_embed(embedding: Any, request_: Request, what: str) -> None:
    async with embedding() as engine:
        with pytest.raises(SpecError, match=what):
            await collect(engine, request_)


async def test_more_requests_than_slots_wait_and_all_are_answered(embedding: Any) -> None:
    async with embedding() as engine:
        asked = [collect(engine, texts(f"text {i}", name=f"r{i}")) for i in range(12)]
        async with asyncio.timeout(WAIT_S):
            answers = await asyncio.gather(*asked)
        assert all(len(deltas[-1].vectors) == 1 for deltas in answers)
        await until(lambda: is_idle(engine))


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in FACTORIES])
async def test_an_engine_that_writes_refuses_to_embed(name: str) -> None:
    engine = FACTORIES[name](slots=2, context_tokens=8192)
    try:
        await engine.start()
        assert not engine.capabilities.embeds
        with pytest.raises(
            SpecError, match="it writes text and gives no vectors; ask a model that says 'embeds: true'"
        ):
            await collect(engine, texts("a"))
    finally:
        await engine.close()


@pytest.mark.parametrize("name", ["vllm", "transformers", "vllm-serve"])
def test_an_engine_without_vectors_says_so_when_it_is_made(name: str) -> None:
    with pytest.raises(DeploymentError, match=f"engine '{name}' gives no vectors .embeds: true.; 'openai' does"):
        create_engine(name, {"model": "m", "embeds": True})


def test_words_that_texts_share_bring_them_together() -> None:
    def cosine(one: str, other: str) -> float:
        return sum(a * b for a, b in zip(word_vector(one), word_vector(other), strict=True))

    assert cosine("How wide is the sea?", TEXTS[0]) > cosine("How wide is the sea?", "Bread and butter")
    assert len(word_vector("?!", 7)) == 7


@pytest.mark.parametrize("dimensions", [0, 10**6])
def test_vectors_have_a_bounded_number_of_dimensions(dimensions: int) -> None:
    with pytest.raises(DeploymentError, match=f"dimensions={dimensions} is not in 1..65536"):
        EMBEDDERS["emulated"](slots=1, context_tokens=128, embeds=True, dimensions=dimensions)


async def test_a_batch_of_texts_beyond_the_kv_cache_is_embedded_all_the_same() -> None:
    engine = EMBEDDERS["emulated"](slots=2, context_tokens=128, kv_tokens=128, embeds=True)
    await engine.start()
    try:
        assert len((await collect(engine, texts(*["word " * 50] * 9)))[-1].vectors) == 9
    finally:
        await engine.close()


async def test_an_embedding_that_nobody_waits_for_any_more_lets_go_of_its_slot(embedding: Any) -> None:
    async with embedding(slots=1) as engine:
        asked = asyncio.ensure_future(collect(engine, texts(*["The sea is wide"] * 200)))
        await until(lambda: not is_idle(engine) or asked.done())
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert (await collect(engine, texts("next", name="next")))[-1].vectors
        await until(lambda: is_idle(engine))


async def test_an_aborted_embedding_has_no_vectors(embedding: Any) -> None:
    async with embedding(slots=1) as engine:
        asked = asyncio.ensure_future(collect(engine, texts(*["The sea is wide"] * 200)))
        await until(lambda: not is_idle(engine) or asked.done())
        await engine.abort("r")
        last = (await asked)[-1]
        assert (last.finish_reason == "abort") == (last.vectors is None)


async def test_a_text_as_long_as_the_context_is_read_in_one_batch() -> None:
    engine = _llama_cpp(slots=2, context_tokens=1500, embeds=True)
    await engine.start()
    try:
        long = "sea " * 1400
        assert 1024 < await engine.count_tokens(texts(long)) <= 1500
        assert len((await collect(engine, texts(long, "short")))[-1].vectors) == 2
    finally:
        await engine.close()


async def test_a_file_that_does_not_say_how_it_embeds_is_refused() -> None:
    pytest.importorskip("xllamacpp")
    path = TinyModel(layers=1, width=64, heads=2).cached_path()
    engine = create_engine("llama.cpp", {"gguf": str(path), "slots": 1, "context_tokens": 64, "embeds": True})
    with pytest.raises(DeploymentError, match=r"says nothing of how a text becomes one vector \(pooling_type\)"):
        await engine.start()
    await engine.close()


async def test_it_may_be_closed_before_anything_was_embedded(embedding: Any) -> None:
    async with embedding() as engine:
        assert is_idle(engine)
