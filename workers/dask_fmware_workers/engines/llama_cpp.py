"""The embedded engine: llama.cpp in this process, on CPU or GPU, from any GGUF file.

It owns the life of one `LlamaServer`, the queue before its slots and the translation of requests into
llama.cpp's words and back. llama.cpp has a queue of its own, but what waits there can be neither
aborted nor reordered: requests therefore wait here, ordered by priority, and llama.cpp never holds
more than it runs. What blocks runs in threads of this engine; the loop is entered again only through
`call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib.metadata
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dask_fmware.errors import (
    ContextOverflowError,
    DeploymentError,
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    OutputFormatError,
    SpecError,
)
from dask_fmware.model.engine import Capabilities, Delta, EngineState, FinishReason, Request, Usage
from dask_fmware_workers.engines.gguf_header import GgufHeader, read_header
from dask_fmware_workers.engines.grammar import choices_grammar
from dask_fmware_workers.engines.llama_server import LlamaServer
from dask_fmware_workers.engines.tiny_gguf import TinyModel

__all__ = ["LlamaCppEngine"]

_T = TypeVar("_T")
_LARGEST_SEED = 0xFFFFFFFE  # llama.cpp reads the next one as "draw a seed"


class LlamaCppEngine:
    """One GGUF model served by llama.cpp inside this process.

    Parameters
    ----------
    gguf
        Path of a GGUF file. Exactly one of `gguf` and `tiny` is given.
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
        verbose: bool = False,
    ) -> None:
        if (gguf is None) == (tiny is None):
            raise DeploymentError("llama.cpp: give exactly one of 'gguf' (a file) and 'tiny' (a random model)")
        self._gguf = None if gguf is None else Path(gguf).expanduser()
        self._tiny = _tiny_model(tiny)
        self._slots = _integer("slots", slots, 1, 256)
        self._context_tokens = _integer("context_tokens", context_tokens, 8, 1 << 24)
        self._threads_wanted = _integer("threads", threads, 1, 512)
        self._cores = _core_numbers(cores, threads)
        self._gpu_layers = _integer("gpu_layers", gpu_layers, -1, 10_000)
        self._random = random.Random(_integer("seed", seed, 0, 1 << 62))
        self._verbose = verbose

        self._capabilities: Capabilities | None = None
        self._header: GgufHeader | None = None
        self._server: LlamaServer | None = None
        self._loading: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._side_threads: ThreadPoolExecutor | None = None  # loading, tokenizing, closing
        self._slot_threads: ThreadPoolExecutor | None = None  # one blocked call for each slot

        self._calls: dict[str, _Call] = {}
        self._queue: list[tuple[float, int, _Call]] = []
        self._accepted = 0
        self._running: set[asyncio.Future[None]] = set()

    # ------------------------------------------------------------------ life

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
        EngineLoadError
            If the file, the ``embedded`` extra, a core or memory is missing, or llama.cpp refuses the model.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._server is not None:
            return
        if self._loading is None:
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
            self._server, self._header = await asyncio.get_running_loop().run_in_executor(side, self._open)
        except BaseException:
            self._loading = self._side_threads = None
            side.shutdown(wait=True)
            raise
        self._slot_threads = ThreadPoolExecutor(self._slots, "llama-slot")
        self._capabilities = Capabilities(
            engine="llama.cpp",
            engine_version=importlib.metadata.version("xllamacpp"),
            slots=self._slots,
            context_tokens=self._context_tokens,
            longest_token_bytes=self._header.longest_token_bytes,
            choices=True,
            json_schema=True,
            priority=True,
            prefix_cache=True,
        )

    def _open(self) -> tuple[LlamaServer, GgufHeader]:
        """Check everything that llama.cpp would answer with silence or with the end of the process, then load."""
        path = self._gguf if self._gguf is not None else self._tiny.cached_path()
        header = read_header(path)
        trained = header.trained_context_tokens
        if trained is not None and self._context_tokens > trained:
            raise EngineLoadError(
                f"llama.cpp: context_tokens={self._context_tokens} exceed the {trained} that '{path}' was trained for; "
                "lower context_tokens"
            )
        available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if self._cores is not None and (available is None or not available.issuperset(self._cores)):
            found = (
                "cores cannot be chosen on this platform" if available is None else f"available: {sorted(available)}"
            )
            raise EngineLoadError(f"llama.cpp: cores={list(self._cores)} cannot be used ({found}); correct 'cores'")
        try:
            server = LlamaServer(
                path,
                slots=self._slots,
                context_tokens=self._context_tokens,
                threads=self._threads_wanted,
                cores=self._cores,
                gpu_layers=self._gpu_layers,
                verbose=self._verbose,
            )
        except ImportError as error:
            raise EngineLoadError(
                f"llama.cpp: the engine needs '{error.name}'; pip install \"dask-fmware[embedded]\""
            ) from error
        except (RuntimeError, OSError) as error:
            raise EngineLoadError(
                f"llama.cpp: could not load '{path}' ({error}); see its log with verbose=True, check that the file is "
                f"whole and that memory suffices for {self._slots} slots of {self._context_tokens} tokens"
            ) from error
        return server, header

    async def _unload(self) -> None:
        try:
            if self._loading is not None:
                await asyncio.wait([self._loading])
                self._loading.cancelled() or self._loading.exception()  # seen: not reported as lost
            for call in self._calls.values():
                call.abort()
            if self._running:  # each ends at its next token or prefill step
                await asyncio.wait(self._running)
            server, self._server = self._server, None
            if server is not None:
                await self._beside(server.close)
            for threads in (self._side_threads, self._slot_threads):
                if threads is not None:
                    threads.shutdown(wait=True)  # idle by now
            self._side_threads = self._slot_threads = self._loading = None
        finally:
            self._closing = None

    # -------------------------------------------------------------- requests

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the output of one request; see `Engine.generate`.

        Raises
        ------
        SpecError
            If the request is malformed, or its id is in use.
        ContextOverflowError
            If prompt plus ``max_tokens`` exceed the context.
        OutputFormatError
            If the choices or the schema cannot be honoured.
        EngineCrashedError
            If the engine is not serving or fails.
        """
        _check(request)
        server = self._serving()
        if request.request_id in self._calls:
            raise SpecError(f"llama.cpp: request '{request.request_id}' is already running; ids are unique")
        call = self._calls[request.request_id] = _Call(request, asyncio.get_running_loop())
        try:
            tokens = await self._tokenize(server, request)
            self._refuse_overflow(request, len(tokens))
            call.prompt_tokens = len(tokens)
            call.body = self._body(request, tokens)
            self._accepted += 1
            heapq.heappush(self._queue, (request.priority, self._accepted, call))
            self._fill_slots()
            async for delta in call.deltas():
                yield delta
        finally:
            call.aborted = True  # nothing if it has ended
            del self._calls[request.request_id]

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once, its slot is free one token later. Unknown ids are ignored."""
        if (call := self._calls.get(request_id)) is not None:
            call.abort()

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request, counted by the model's own tokenizer and chat template."""
        _check(request)
        return len(await self._tokenize(self._serving(), request))

    def state(self) -> EngineState:
        """Load at this moment: a request runs from the moment a slot takes it until the slot lets go."""
        waiting = sum(not call.started and not call.aborted for call in self._calls.values())
        return EngineState(running=len(self._running), waiting=waiting)

    # --------------------------------------------------------------- details

    @property
    def _name(self) -> str:
        return str(self._gguf) if self._gguf is not None else self._tiny.key

    def _serving(self) -> LlamaServer:
        if self._server is None or self._closing is not None:
            raise EngineCrashedError(f"llama.cpp: '{self._name}' is not serving; start it, or try another replica")
        return self._server

    async def _beside(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._side_threads, function, *arguments)

    async def _tokenize(self, server: LlamaServer, request: Request) -> list[int]:
        try:
            if request.messages is None:
                tokens = await self._beside(server.tokenize, request.prompt)
            else:
                tokens = await self._beside(_tokenize_chat, server, request)
        except (OSError, RuntimeError) as error:
            raise EngineCrashedError(f"llama.cpp: '{self._name}' could not tokenize ({error}); try again") from error
        if not tokens:
            raise SpecError(f"llama.cpp: the prompt of request '{request.request_id}' is empty; give it some text")
        return tokens

    def _refuse_overflow(self, request: Request, prompt_tokens: int) -> None:
        if prompt_tokens + request.max_tokens > self._context_tokens:
            raise ContextOverflowError(
                f"llama.cpp: request '{request.request_id}' needs {prompt_tokens} prompt tokens + max_tokens="
                f"{request.max_tokens}, more than the context of {self._context_tokens} tokens; shorten the prompt, "
                "lower max_tokens or raise context_tokens in the deployment"
            )

    def _body(self, request: Request, tokens: list[int]) -> dict[str, Any]:
        sampling = request.sampling
        seed = self._random.getrandbits(31) if sampling.seed is None else sampling.seed % (_LARGEST_SEED + 1)
        body: dict[str, Any] = {
            "prompt": tokens,
            "max_tokens": request.max_tokens,
            "seed": seed,
            "stop": list(sampling.stop),
            "cache_prompt": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,  # the only way to know how many tokens a chunk holds
            "return_progress": True,  # a chunk for each prefill step: the chance to abort a long prompt
        }
        optional = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        body |= {name: value for name, value in optional.items() if value is not None}
        if request.choices is not None:
            body["grammar"] = choices_grammar(request.choices)
        if request.json_schema is not None:
            body["json_schema"] = dict(request.json_schema)
        return body

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

    def _on_served(self, served: asyncio.Future[None]) -> None:
        self._running.discard(served)
        self._fill_slots()


@dataclass(eq=False, slots=True)
class _Call:
    """One request on its way: the thread that blocks in llama.cpp writes, the consumer on the loop reads."""

    request: Request
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[dict[str, Any] | Exception | None] = field(default_factory=asyncio.Queue)
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    prompt_tokens: int = 0
    started: bool = False
    aborted: bool = False  # read by the thread at every token

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.chunks.put_nowait(None)

    def serve(self, server: LlamaServer) -> None:
        """Block until the text ends; runs in a thread."""

        def on_chunk(chunk: dict[str, Any]) -> bool:
            if not self.aborted:
                self._hand_over(chunk)
            return self.aborted

        try:
            server.complete(self.body, on_chunk)
            # Without a last chunk, the consumer would wait for ever; after one, nobody reads this.
            self._hand_over(EngineCrashedError("llama.cpp: a stream ended without a finish reason; try again"))
        except Exception as error:
            self._hand_over(EngineCrashedError(f"llama.cpp: a request failed ({type(error).__name__}: {error})"))

    def _hand_over(self, item: dict[str, Any] | Exception) -> None:
        try:
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody will read
            self.aborted = True

    async def deltas(self) -> AsyncIterator[Delta]:
        """Yield what llama.cpp sends, as deltas whose tokens add up."""
        output_tokens = cached_tokens = 0
        text: list[str] = []
        constrained = self.request.choices is not None or self.request.json_schema is not None
        while True:
            chunk = await self.chunks.get()
            if chunk is None:
                yield Delta("", finish_reason="abort", usage=Usage(self.prompt_tokens, output_tokens, cached_tokens))
                return
            if isinstance(chunk, Exception):
                raise chunk
            if "error" in chunk:
                raise self._engine_error(chunk["error"])
            piece, finish_reason = _text_of(chunk)
            counted: int = chunk["timings"]["predicted_n"]
            cached_tokens = chunk["timings"]["cache_n"]
            if constrained:
                text.append(piece)
            if finish_reason is not None:
                if constrained:
                    self._check_format("".join(text), finish_reason)
                usage = Usage(self.prompt_tokens, counted, cached_tokens)
                yield Delta(piece, counted - output_tokens, finish_reason, usage)
                return
            if piece or counted > output_tokens:
                delta = Delta(piece, counted - output_tokens)
                output_tokens = counted
                yield delta

    def _check_format(self, text: str, finish_reason: FinishReason) -> None:
        request = self.request
        if request.choices is not None:
            sound, what = text in request.choices, "one of the choices"
        else:
            sound, what = _is_json(text), "a JSON document"
        if not sound:
            remedy = "raise max_tokens" if finish_reason == "length" else "simplify the schema"
            raise OutputFormatError(
                f"llama.cpp: request '{request.request_id}' ended ({finish_reason}, max_tokens={request.max_tokens}) "
                f"before its text was {what}; {remedy}"
            )

    def _engine_error(self, error: Mapping[str, Any]) -> EngineError | ContextOverflowError:
        """Name an error of llama.cpp, which saw token ids only: its message holds no prompt."""
        request, message = self.request, f"{error.get('message', 'no reason given')}"
        where = f"llama.cpp: request '{request.request_id}'"
        if error.get("type") == "exceed_context_size_error":
            return ContextOverflowError(f"{where}: {message}; shorten the prompt or raise context_tokens")
        if error.get("code") == 400 and (request.choices is not None or request.json_schema is not None):
            return OutputFormatError(f"{where}: {message}; correct the choices or the schema")
        return EngineCrashedError(f"{where}: {message} (code {error.get('code')}); try again")


def _tokenize_chat(server: LlamaServer, request: Request) -> list[int]:
    return server.tokenize(server.apply_template([asdict(message) for message in request.messages or ()]))


def _text_of(chunk: Mapping[str, Any]) -> tuple[str, FinishReason | None]:
    choice = chunk["choices"][0]
    return choice["text"], choice["finish_reason"]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _check(request: Request) -> None:
    """Refuse a malformed request with words of our own rather than llama.cpp's."""
    sampling, where = request.sampling, f"llama.cpp: request '{request.request_id}'"
    if (request.prompt is None) == (request.messages is None):
        raise SpecError(f"{where}: give exactly one of prompt and messages")
    if request.messages is not None and not request.messages:
        raise SpecError(f"{where}: messages is empty; give at least one")
    if request.max_tokens < 1:
        raise SpecError(f"{where}: max_tokens={request.max_tokens} is below 1")
    if sampling.temperature is not None and not sampling.temperature >= 0:
        raise SpecError(f"{where}: temperature={sampling.temperature} is below 0")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise SpecError(f"{where}: top_p={sampling.top_p} is outside 0..1")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise SpecError(f"{where}: top_k={sampling.top_k} is below 1")
    if not all(sampling.stop):
        raise SpecError(f"{where}: a stop string is empty")
    if request.choices is not None and request.json_schema is not None:
        raise SpecError(f"{where}: give choices or json_schema, not both")
    if request.choices is not None and not (request.choices and all(request.choices)):
        raise SpecError(f"{where}: choices must be one or more labels, none of them empty")
    texts = [request.prompt or "", *(message.content for message in request.messages or ())]
    try:
        for text in (*texts, *(request.choices or ()), *sampling.stop):
            text.encode()
    except UnicodeEncodeError:
        raise SpecError(f"{where}: a text holds half of a surrogate pair, which is no character") from None


def _integer(name: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DeploymentError(f"llama.cpp: {name}={value!r} is not an integer in {low}..{high}")
    return value


def _tiny_model(tiny: TinyModel | Mapping[str, Any] | None) -> TinyModel:
    if tiny is None or isinstance(tiny, TinyModel):
        return tiny or TinyModel()
    try:
        return TinyModel(**tiny)
    except TypeError as error:
        known = ", ".join(TinyModel.__dataclass_fields__)
        raise DeploymentError(f"llama.cpp: tiny={tiny!r} is no tiny model ({error}); it takes {known}") from error


def _core_numbers(cores: Sequence[int] | None, threads: int) -> tuple[int, ...] | None:
    if cores is None:
        return None
    numbers = tuple(_integer("cores", core, 0, 4095) for core in cores)
    if len(set(numbers)) != len(numbers) or len(numbers) < threads:
        raise DeploymentError(f"llama.cpp: cores={list(cores)} must be {threads} or more different cores (threads)")
    return numbers
