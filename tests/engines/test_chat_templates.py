"""A chat of which a model's template makes no prompt is a fault of the request, and leaves its engine alone."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.errors import SpecError
from dask_fmware.model.engine import EngineState, Message
from dask_fmware.testing.asking import ask, collect
from dask_fmware_workers.engines.token_engine import TokenEngine

CHAT = (Message("system", "be brief"), Message("user", "the secret"))
REFUSED = r"chat template refuses its 2 turns \(roles system, user; \w+\); leave out system="


class Tokenizer:
    """As much of a tokenizer as an engine uses, with the template of a model that has no system role."""

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}

    def encode(self, text: str, **options: Any) -> list[int]:
        return [1, 2, 3]

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        if messages[0]["role"] == "system":
            raise ValueError(f"no system role, as in {messages[0]['content']}")
        return "ok"


class Backend:
    """As much of a library as an engine uses to count tokens."""

    tokenizer = Tokenizer()

    def open(self) -> None: ...

    def close(self) -> None: ...

    def state(self) -> EngineState:
        return EngineState()


class Engine(TokenEngine):
    """A token engine that needs no library."""

    name = "some"

    def _make_backend(self, loop: Any) -> Any:
        return Backend()

    def _version(self) -> str:
        return "0"


@pytest.mark.parametrize("format_", [{}, {"choices": ("yes", "no")}])
async def test_engines_with_tokenizers(format_: dict[str, Any]) -> None:
    engine = Engine("model", slots=2, context_tokens=100, seed=0)
    await engine.start()
    with pytest.raises(SpecError, match=REFUSED) as caught:
        await collect(engine, ask(prompt=None, messages=CHAT, **format_))
    assert "secret" not in str(caught.value)
    assert "brief" not in str(caught.value)
    assert caught.value.__cause__ is None
    await engine.close()


async def test_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    from dask_fmware_workers.engines.llama_cpp import LlamaCppEngine
    from dask_fmware_workers.engines.llama_server import LlamaServer
    from dask_fmware_workers.engines.tiny_gguf import TinyModel

    def refuse(self: LlamaServer, messages: Any) -> str:
        raise RuntimeError("/apply-template answered 500: server_error")

    engine = LlamaCppEngine(tiny=TinyModel(layers=1, width=64, heads=2))
    await engine.start()
    try:
        assert await collect(engine, ask(messages=CHAT))
        monkeypatch.setattr(LlamaServer, "apply_template", refuse)
        with pytest.raises(SpecError, match=REFUSED):
            await collect(engine, ask(messages=CHAT))
        with pytest.raises(SpecError, match=REFUSED):
            await engine.count_tokens(ask(messages=CHAT))
        assert await collect(engine, ask())
    finally:
        await engine.close()
