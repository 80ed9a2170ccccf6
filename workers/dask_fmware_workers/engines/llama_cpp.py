"""The embedded engine: llama.cpp in this process, on CPU or GPU, from any GGUF file.

Why choose it
    Real tokens after one pip install, without a GPU or a server; small models on the cores that a cluster has.

Inputs
    A GGUF file, or the shape of a random model to write and serve instead.

What it does
    It owns the life of one `LlamaServer`, the queue before its slots and the translation of requests into
    llama.cpp's words and back. llama.cpp has a queue of its own, but what waits there can be neither aborted nor
    reordered: requests therefore wait here, ordered by priority, and llama.cpp never holds more than it runs.
    Choices become a grammar, schemas are llama.cpp's own. What blocks runs in threads of this engine; the loop is
    entered again only through `call_soon_threadsafe`. What is loaded, and what is refused before, is of `LlamaSetup`.

Configuration
    See `LlamaCppEngine`.

Trade-offs
    xllamacpp holds the GIL while it loads (0.1 s for a tiny model, about the time of a copy for a large one), so a
    worker is mute for that long. Prefixes are kept in the slots, one for each, and are lost to the next request
    that takes the slot. A GGUF file with sound metadata and unsound content can end the process inside llama.cpp.
    Text of equal seeds is equal only where the numbers are: a different batch around a request may change its
    last bits.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib.metadata
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from dask_fmware.errors import EngineCrashedError, EngineError, SpecError
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request
from dask_fmware_workers.engines.llama_call import LlamaCall
from dask_fmware_workers.engines.llama_server import LlamaServer
from dask_fmware_workers.engines.llama_setup import LlamaSetup, integer
from dask_fmware_workers.engines.request_checks import (
    check_context,
    check_request,
    check_size,
    check_texts,
    template_refuses,
)
from dask_fmware_workers.engines.tiny_gguf import TinyModel

__all__ = ["LlamaCppEngine"]

_T = TypeVar("_T")


class LlamaCppEngine:
    """One GGUF model served by llama.cpp inside this process.

    Parameters
    ----------
    gguf
        Path of a GGUF file, the first one of a model that is split. Exactly one of `gguf` and `tiny` is given.
    tiny
        A random model to write and serve instead, as a `TinyModel` or its parameters.
    slots
        Requests that run at once.
    context_tokens
        Prompt plus output of one request; memory for the KV cache grows with it times `slots`.
    threads
        Compute threads. For models below some 100M parameters more than one is slower.
    cores
        Cores that the replica may use (Linux), at least as many as `threads`; None for any.
    gpu_layers
        Layers to keep on a GPU, -1 for all. Needs a GPU build of xllamacpp.
    seed
        Of the seeds of requests that bring none.
    embeds
        Give vectors and no text: of a GGUF file that says how, as those of models that embed do, or of a random model.
    verbose
        Let llama.cpp log to standard error.

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds.
    """

    def __init__(
        self,
        *,
        gguf: str | os.PathLike[str] | None = None,
        tiny: TinyModel | Mapping[str, Any] | None = None,
        slots: int = 4,
        context_tokens: int = 2048,
        threads: int = 1,
        cores: Sequence[int] | None = None,
        gpu_layers: int = 0,
        seed: int = 0,
        embeds: bool = False,
        verbose: bool = False,
    ) -> None:
        self._setup = LlamaSetup(
            gguf=gguf,
            tiny=tiny,
            slots=slots,
            context_tokens=context_tokens,
            threads=threads,
            cores=cores,
            gpu_layers=gpu_layers,
            embeds=embeds,
            verbose=verbose,
        )
        self._embeds = embeds
        self._name, self._slots, self._context_tokens = self._setup.name, slots, context_tokens
        self._random = random.Random(integer("seed", seed, 0, 1 << 62))

        self._capabilities: Capabilities | None = None
        self._server: LlamaServer | None = None
        self._loading: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._side_threads: ThreadPoolExecutor | None = None  # loading, tokenizing, closing
        self._slot_threads: ThreadPoolExecutor | None = None  # one blocked call for each slot

        self._calls: dict[str, LlamaCall] = {}
        self._queue: list[tuple[float, int, LlamaCall]] = []
        self._accepted = 0
        self._queried_tokens = self._hit_tokens = 0  # of prompts, in the prefixes that slots keep
        self._running: set[asyncio.Future[None]] = set()
        self._tokenizing: set[asyncio.Future[Any]] = set()

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError(f"llama.cpp: '{self._name}' has not been started; await start() first")
        return self._capabilities

    async def start(self) -> None:
        """Load the model; returns when the engine serves.

        Raises
        ------
        DeploymentError
            If the file does not exist, is damaged, or is of an architecture that this llama.cpp does not know; if the
            context is beyond the model's.
        EngineLoadError
            If the ``embedded`` extra, a core or enough memory is missing.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._server is not None:
            return
        if self._loading is None or self._loading.done():  # done without a server: it failed, try again
            self._loading = asyncio.create_task(self._load(), name=f"load {self._name}")
        await asyncio.shield(self._loading)

    async def close(self) -> None:
        """Abort what runs and free everything; idempotent, also after a failed or cancelled `start`."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._unload(), name=f"close {self._name}")
        await asyncio.shield(self._closing)

    async def _load(self) -> None:
        side = self._side_threads = ThreadPoolExecutor(2, "llama-side")
        try:
            server, header = await asyncio.get_running_loop().run_in_executor(side, self._setup.load)
        except BaseException:
            self._side_threads = None
            side.shutdown(wait=True)
            raise
        self._server, self._slot_threads = server, ThreadPoolExecutor(self._slots, "llama-slot")
        self._capabilities = Capabilities(
            engine="llama.cpp",
            engine_version=importlib.metadata.version("xllamacpp"),
            slots=self._slots,
            context_tokens=self._context_tokens,
            longest_token_bytes=header.longest_token_bytes,
            embeds=self._embeds,
            choices=not self._embeds,
            json_schema=not self._embeds,
            priority=True,
            prefix_cache=not self._embeds,
        )

    async def _unload(self) -> None:
        try:
            if self._loading is not None:
                await asyncio.gather(self._loading, return_exceptions=True)
            for call in self._calls.values():
                call.abort()
            if busy := self._running | self._tokenizing:  # each ends at its next token, prefill step or text
                await asyncio.wait(busy)
            server, self._server = self._server, None
            if server is not None:
                await self._beside(server.close)
            for threads in (self._side_threads, self._slot_threads):
                if threads is not None:
                    threads.shutdown(wait=True)  # idle by now
            self._side_threads = self._slot_threads = self._loading = None
        finally:
            self._closing = None

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the output of one request; see `Engine.generate`.

        Raises
        ------
        SpecError
            If the request is malformed, or its id is in use.
        ContextOverflowError
            If prompt plus ``max_tokens`` exceed the context.
        OutputFormatError
            If no grammar can be made of the choices or the schema.
        EngineCrashedError
            If the engine is not serving or fails.
        """
        check_request(request, engine="llama.cpp", embeds=self._embeds)
        server = self._serving()
        self._check_size(request)
        if request.request_id in self._calls:
            raise SpecError(f"llama.cpp: request '{request.request_id}' is already running; ids are unique")
        call = self._calls[request.request_id] = LlamaCall(request, asyncio.get_running_loop())
        self._accepted += 1
        place = (request.priority, self._accepted)
        try:
            await self._prepare(server, call)
            heapq.heappush(self._queue, (*place, call))
            self._fill_slots()
            delta = await call.next_delta()
            while delta.finish_reason is None:
                yield delta
                delta = await call.next_delta()
            yield delta
        finally:
            call.aborted = True  # nothing if it has ended
            del self._calls[request.request_id]
            if call.output_tokens and not self._embeds:  # else nobody has looked for its prefix yet
                self._queried_tokens += call.prompt_tokens
                self._hit_tokens += call.cached_tokens

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once, its slot is free one token later. Unknown ids are ignored."""
        if (call := self._calls.get(request_id)) is not None:
            call.abort()

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request, counted by the model's own tokenizer and chat template."""
        check_request(request, engine="llama.cpp", embeds=self._embeds)
        server = self._serving()
        if request.texts is not None:
            return sum(map(len, await self._tokenize_texts(server, request.texts)))
        return len(await self._tokenize(server, request))

    def state(self) -> EngineState:
        """Load at this moment: a request runs from the moment a slot takes it until the slot lets go.

        Every slot has a KV cache of its own, which no other takes: `kv_used` is what running requests fill of all,
        without the prefixes that idle slots keep.
        """
        waiting = sum(not call.started and not call.aborted for call in self._calls.values())
        held = sum(call.prompt_tokens + call.output_tokens for call in self._calls.values() if call.started)
        return EngineState(
            running=len(self._running),
            waiting=waiting,
            kv_used=min(1.0, held / (self._slots * self._context_tokens)),
            prefix_queried_tokens=self._queried_tokens,
            prefix_hit_tokens=self._hit_tokens,
            preemptions=0,
        )

    def _serving(self) -> LlamaServer:
        if self._server is None or self._closing is not None:
            raise EngineCrashedError(f"llama.cpp: '{self._name}' is not serving; start it, or try another replica")
        return self._server

    async def _beside(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._side_threads, function, *arguments)

    def _check_size(self, request: Request) -> None:
        """Refuse what fits with no tokens that there are."""
        longest = self.capabilities.longest_token_bytes
        if request.texts is None:
            check_size(request, longest, self._context_tokens, engine="llama.cpp")
        else:
            least = [-(-len(text.encode()) // longest) for text in request.texts]
            check_texts(request, least, self._context_tokens, engine="llama.cpp")

    async def _prepare(self, server: LlamaServer, call: LlamaCall) -> None:
        """Cut what a request brings into tokens, and refuse it if they do not fit."""
        request = call.request
        if request.texts is None:
            tokens = await self._tokenize(server, request)
            check_context(request, len(tokens), self._context_tokens, engine="llama.cpp")
            call.prepare(tokens, default_seed=self._random.getrandbits(31))
        else:
            texts = await self._tokenize_texts(server, request.texts)
            check_texts(request, [len(tokens) for tokens in texts], self._context_tokens, engine="llama.cpp")
            call.prepare_texts(texts)

    async def _tokenize_texts(self, server: LlamaServer, texts: Sequence[str]) -> list[list[int]]:
        def tokenize() -> list[list[int]]:
            found = []
            for text in texts:
                if self._closing is not None:
                    raise RuntimeError("it is being closed")
                found.append(server.tokenize(text))
            return found

        return await self._tokenized(tokenize)

    async def _tokenized(self, tokenize: Callable[[], _T]) -> _T:
        """Tokenize in a thread, which `close` waits for though nobody else may: it must not take the server away."""
        work = asyncio.ensure_future(self._beside(tokenize))
        self._tokenizing.add(work)
        work.add_done_callback(self._on_tokenized)
        try:
            return await asyncio.shield(work)
        except (OSError, RuntimeError) as error:
            raise EngineCrashedError(f"llama.cpp: '{self._name}' could not tokenize ({error}); try again") from error

    async def _tokenize(self, server: LlamaServer, request: Request) -> list[int]:
        where = f"llama.cpp: '{self._name}'"
        if request.messages is None:
            tokens = await self._tokenized(lambda: server.tokenize(request.prompt or ""))
        else:
            tokens = await self._tokenized(lambda: _tokenize_chat(server, request, where))
        if not tokens:
            raise SpecError(f"llama.cpp: the prompt of request '{request.request_id}' is empty; give it some text")
        return tokens

    def _fill_slots(self) -> None:
        """Give free slots to the first in the queue."""
        loop = asyncio.get_running_loop()
        while self._queue and len(self._running) < self._slots and self._server is not None:
            call = heapq.heappop(self._queue)[-1]
            if call.aborted:
                continue
            call.started = True
            served = loop.run_in_executor(self._slot_threads, call.serve, self._server)
            self._running.add(served)
            served.add_done_callback(self._on_served)

    def _on_tokenized(self, work: asyncio.Future[Any]) -> None:
        self._tokenizing.discard(work)
        if not work.cancelled():
            work.exception()  # told to whoever still waits for it

    def _on_served(self, served: asyncio.Future[None]) -> None:
        self._running.discard(served)
        self._fill_slots()


def _tokenize_chat(server: LlamaServer, request: Request, model: str) -> list[int]:
    try:
        prompt = server.apply_template([asdict(message) for message in request.messages or ()])
    except RuntimeError as error:  # it answered, and not with a prompt
        raise template_refuses(request, error, engine=model) from None
    return server.tokenize(prompt)
