"""One request inside the embedded engine, from llama.cpp's words to deltas.

It owns the translation in both directions and the hand-over between two sides: the thread that blocks
in llama.cpp writes chunks, the consumer on the event loop reads deltas. It knows nothing of slots,
queues or the life of the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_fmware.errors import ContextOverflowError, EngineCrashedError, EngineError, OutputFormatError
from dask_fmware.model.engine import Delta, FinishReason, Request, Usage
from dask_fmware_workers.engines.grammar import bounded_schema, choices_grammar
from dask_fmware_workers.engines.llama_server import LlamaServer
from dask_fmware_workers.engines.openai_embeddings import Embedding

__all__ = ["LlamaCall"]

_SEEDS = 0xFFFFFFFF  # llama.cpp takes 32 bits and reads the largest as "draw a seed"


@dataclass(eq=False, slots=True)
class LlamaCall:
    """One request on its way."""

    request: Request
    loop: asyncio.AbstractEventLoop
    started: bool = False  # a slot has taken it
    aborted: bool = False  # read by the thread at every chunk
    prompt_tokens: int = 0
    output_tokens: int = 0  # in the deltas so far
    cached_tokens: int = 0
    _body: dict[str, Any] = field(default_factory=dict, repr=False)
    _embedding: Embedding | None = None
    _chunks: asyncio.Queue[dict[str, Any] | Delta | Exception | None] = field(default_factory=asyncio.Queue, repr=False)

    @property
    def is_constrained(self) -> bool:
        """Whether the text must have a format."""
        return self.request.choices is not None or self.request.json_schema is not None

    def prepare(self, tokens: Sequence[int], default_seed: int) -> None:
        """Write the request in llama.cpp's words; `tokens` is the prompt."""
        request, sampling = self.request, self.request.sampling
        self.prompt_tokens = len(tokens)
        self._body = {
            "prompt": list(tokens),
            "max_tokens": request.max_tokens,
            "seed": (default_seed if sampling.seed is None else sampling.seed) % _SEEDS,
            "stop": list(sampling.stop),
            "cache_prompt": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,  # the only way to know how many tokens a chunk holds
            "return_progress": True,  # a chunk for each prefill step: the chance to abort a long prompt
        }
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(sampling, name)) is not None:
                self._body[name] = value
        if request.choices is not None:
            self._body["grammar"] = choices_grammar(request.choices)
        if request.json_schema is not None:
            self._body["json_schema"] = bounded_schema(request.json_schema, request.max_tokens)

    def prepare_texts(self, texts: Sequence[list[int]]) -> None:
        """Write a request for vectors in llama.cpp's words; `texts` are their tokens."""
        self.prompt_tokens = sum(map(len, texts))
        self._embedding = Embedding(texts, self.prompt_tokens)

    def abort(self) -> None:
        """End the stream here; what llama.cpp still sends is dropped. On the loop."""
        if not self.aborted:
            self.aborted = True
            self._chunks.put_nowait(None)

    def serve(self, server: LlamaServer) -> None:
        """Block until the text ends or the call is aborted, or until all vectors are there. In a thread."""
        try:
            if self._embedding is not None:
                self._embed(server, self._embedding)
            else:
                server.complete(self._body, self._on_chunk)
            ended: Exception = EngineCrashedError("llama.cpp: a stream ended without a finish reason; try again")
        except Exception as error:
            ended = EngineCrashedError(f"llama.cpp: a request failed ({type(error).__name__}: {error}); try again")
        self._hand_over(ended)  # nobody reads it behind the last chunk of a sound stream

    def _embed(self, server: LlamaServer, made: Embedding) -> None:
        """Hand over the vectors when all are there, and signs of life before that."""
        while not self.aborted and not made.is_whole:
            answer = server.embed(made.body())
            if "error" in answer:
                self._hand_over(answer)
                return
            made.take(answer)
            self._hand_over(made.delta() if made.is_whole else Delta(""))

    def _on_chunk(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; True tells llama.cpp to stop."""
        if not self.aborted:
            self._hand_over(chunk)
        return self.aborted

    def _hand_over(self, item: dict[str, Any] | Delta | Exception) -> None:
        try:
            self.loop.call_soon_threadsafe(self._chunks.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nobody reads
            self.aborted = True

    async def next_delta(self) -> Delta:
        """Wait for the next delta. Tokens of all deltas add up to the usage of the last."""
        while True:
            chunk = await self._chunks.get()
            if chunk is None:
                return Delta("", finish_reason="abort", usage=self._usage())
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, Delta):
                self.output_tokens += chunk.tokens
                return chunk
            if "error" in chunk:
                raise self._named(chunk["error"])
            choice, timings = chunk["choices"][0], chunk["timings"]
            text: str = choice["text"]
            finish_reason: FinishReason | None = choice["finish_reason"]
            tokens = timings["predicted_n"] - self.output_tokens
            self.output_tokens += tokens
            self.cached_tokens = timings["cache_n"]
            if finish_reason is not None:
                return Delta(text, tokens, finish_reason, self._usage())
            if text or tokens:  # else it reports prefill
                return Delta(text, tokens)

    def _usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.output_tokens, self.cached_tokens)

    def _named(self, error: Mapping[str, Any]) -> EngineError | ContextOverflowError:
        """Name an error of llama.cpp. It was given token ids, so that its message holds no prompt."""
        where, message = f"llama.cpp: request '{self.request.request_id}'", error.get("message", "no reason given")
        if error.get("type") == "exceed_context_size_error":
            return ContextOverflowError(f"{where}: {message}; shorten the prompt or raise context_tokens")
        if error.get("code") == 400 and self.is_constrained:
            return OutputFormatError(f"{where}: {message}; correct the choices or the schema")
        return EngineCrashedError(f"{where}: {message} (code {error.get('code')}); try again")
