"""Engines under conformance: one factory for each, small enough to start for every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from dask_fmware.model.engine import Engine
from dask_fmware_workers.engines import ENGINES, create_engine, engine_names
from tests.engines.servers import VLLM_KEY, VLLM_KEY_ENV, llama_server, vllm_server


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


def marks(name: str) -> list[pytest.MarkDecorator]:
    """What the tests of an engine are marked with."""
    if name not in ELSEWHERE:
        return [pytest.mark.engine]
    mark = getattr(pytest.mark, ELSEWHERE[name])
    # What these libraries and torch warn of is theirs.
    return [pytest.mark.engine, mark, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]
