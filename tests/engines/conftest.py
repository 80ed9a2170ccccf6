"""Engines under conformance: one factory for each, small enough to start for every test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.model.engine import Engine
from dask_fmware_workers.engines import ENGINES, create_engine, engine_names
from tests.engines.servers import VLLM_KEY, VLLM_KEY_ENV, llama_server, stop_servers, vllm_server

EngineFactory = Callable[..., AbstractAsyncContextManager[Engine]]


def _llama_cpp(**arguments: Any) -> Engine:
    pytest.importorskip("xllamacpp")
    tiny = {"layers": 2, "width": 128, "heads": 4, "end_probability": 0.0}
    return create_engine("llama.cpp", {"tiny": tiny, **arguments})


def _scripted(**arguments: Any) -> Engine:
    return create_engine("scripted", {"token_s": 0.001, **arguments})


def _emulated(**arguments: Any) -> Engine:
    law = {"w0": 1e-3, "w1": 1e-7, "w2": 1e-6, "w3": 1e-9}
    return create_engine("emulated", {"law": law, "stream_interval_s": 0.003, **arguments})


def _openai(slots: int, context_tokens: int, **arguments: Any) -> Engine:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("openai")
    address = llama_server(slots, context_tokens)
    at = {"base_url": f"{address}/v1", "model": "tiny", "dialect": "llama.cpp"}
    return create_engine("openai", {**at, "slots": slots, "context_tokens": context_tokens, **arguments})


def _vllm(context_tokens: int, **arguments: Any) -> Engine:
    from tests.engines.tiny_llama import tiny_llama

    json = {"backend": "xgrammar", "disable_any_whitespace": True}  # a random model would write blanks for ever
    options = {"enforce_eager": True, "block_size": 32, "structured_outputs_config": json}
    fixed = {"model": str(tiny_llama()), "kv_cache_memory_bytes": 32 << 20, "options": options}
    return create_engine("vllm", {**fixed, "context_tokens": context_tokens, **arguments})


VLLM_WORDS = ["--enforce-eager", "--block-size", "32", "--structured-outputs-config"]
VLLM_WORDS += ['{"backend": "xgrammar", "disable_any_whitespace": true}']


def _vllm_serve(**arguments: Any) -> Engine:
    pytest.importorskip("openai")
    from tests.engines.tiny_llama import tiny_llama

    # vLLM 0.32's worker process dies of prompts of one token in 16 bits on CPUs with AMX
    fixed = {"model": str(tiny_llama()), "dtype": "float32", "kv_cache_memory_bytes": 32 << 20, "options": VLLM_WORDS}
    return create_engine("vllm-serve", {**fixed, **arguments})


def _openai_vllm(slots: int, context_tokens: int, **arguments: Any) -> Engine:
    """As ``vllm-serve`` speaks to its server, which is not started for every test."""
    pytest.importorskip("openai")
    from tests.engines.tiny_llama import tiny_llama

    model = str(tiny_llama())
    os.environ[VLLM_KEY_ENV] = VLLM_KEY
    address = vllm_server(model, slots, context_tokens, VLLM_WORDS)
    at = {"base_url": address, "model": model, "dialect": "vllm-priority", "api_key_env": VLLM_KEY_ENV}
    return create_engine("openai", {**at, "slots": slots, "context_tokens": context_tokens, **arguments})


def _transformers(**arguments: Any) -> Engine:
    from tests.engines.tiny_llama import tiny_llama

    return create_engine("transformers", {"model": str(tiny_llama()), "device": "cpu", "threads": 1, **arguments})


def _named(name: str, **arguments: Any) -> Engine:
    return create_engine(name, arguments)


FACTORIES: dict[str, Callable[..., Engine]] = {
    "emulated": _emulated,
    "llama.cpp": _llama_cpp,
    "openai": _openai,
    "scripted": _scripted,
    "transformers": _transformers,
    "vllm": _vllm,
    "vllm-serve": _vllm_serve,
    "openai to vllm": _openai_vllm,
}
"""A factory takes `slots` and `context_tokens`. Add an engine here and the whole suite runs on it."""

FACTORIES |= {name: partial(_named, name) for name in engine_names() if name not in ENGINES}
"""Those of other packages that are installed."""

ELSEWHERE = {"transformers": "transformers", "vllm": "vllm", "openai to vllm": "vllm", "vllm-serve": "vllm_serve"}
"""They run in an environment of their own, each behind a marker."""


@pytest.fixture(scope="session", autouse=True)
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tiny models are written once for the session and never into the cache of the user."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        yield directory
    stop_servers()


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name not in ELSEWHERE:
        return [pytest.mark.engine]
    mark = getattr(pytest.mark, ELSEWHERE[name])
    # What these libraries and torch warn of is theirs.
    return [pytest.mark.engine, mark, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]


@pytest.fixture(params=[pytest.param(name, marks=_marks(name)) for name in FACTORIES])
def make(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    """The factory of one engine."""

    def engine(**arguments: Any) -> Engine:
        return FACTORIES[request.param](**{"slots": 2, "context_tokens": 8192, **arguments})

    return engine


@pytest.fixture
def serving(make: Callable[..., Engine]) -> EngineFactory:
    """A context manager that starts an engine with the given arguments and closes it."""

    @asynccontextmanager
    async def context(**arguments: Any) -> AsyncIterator[Engine]:
        engine = make(**arguments)
        try:
            await engine.start()
            yield engine
        finally:
            await engine.close()

    return context
