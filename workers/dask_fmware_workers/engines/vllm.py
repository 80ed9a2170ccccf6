"""vLLM: the production engine for GPUs, owned by a model-hosting worker.

Why choose it
    The best throughput on a GPU: paged KV cache, continuous batching, prefix cache, guided output, tensor
    parallelism. Where somebody else runs a vLLM server, the ``openai`` engine reaches it.

Inputs
    A model directory, or a name that vLLM can load; slots, context, and whatever `EngineArgs` takes.

What it does
    Requests wait here by priority until one of `slots` is free, then run in vLLM, whose own queue stays
    empty. Prompts go in as tokens, so that they are counted once and checked against the context before.
    ``mode: one_process`` steps vLLM's engine in a thread of this worker: small, quick to start, nothing to
    outlive the worker. ``mode: processes`` is vLLM's own asynchronous engine, with its scheduler and its cards in
    child processes; they end with the worker, even one that was killed (see `vllm_watch`).

Configuration
    See `VllmEngine`. Set ``kv_cache_memory_bytes``: by default vLLM takes most of the memory of a card.

Trade-offs
    Seconds to a minute to start. In one process the scheduler shares the GIL with the worker. Child processes
    cannot be started by a daemonic process, which Dask's workers under a nanny are: set the Dask
    configuration ``distributed.worker.daemon: False``. On CPUs set ``OMP_NUM_THREADS=1`` for small models and
    ``block_size: 32`` in `options`, or short prefixes are never reused. Small models may fill
    a document with blanks until they are cut: ``structured_outputs_config: {"backend": "xgrammar",
    "disable_any_whitespace": true}`` forbids that. Load is counted here: preemptions and the use of
    the KV cache are not reported. Cards are chosen by the worker's ``CUDA_VISIBLE_DEVICES``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import count
from random import Random
from typing import Any

from dask_fmware.errors import (
    DeploymentError,
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    FMwareError,
    OutputFormatError,
    SpecError,
)
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request, Usage
from dask_fmware_workers.engines.engine_call import EngineCall
from dask_fmware_workers.engines.request_checks import check_context, check_format, check_request
from dask_fmware_workers.engines.slot_queue import SlotQueue
from dask_fmware_workers.engines.vllm_backends import BACKENDS, Backend

__all__ = ["VllmEngine"]

SEEDS = 2**63 - 1


class VllmEngine:
    """One model served by vLLM.

    Parameters
    ----------
    model
        Directory or name of the model.
    mode
        ``"one_process"`` or ``"processes"``.
    slots
        Requests that run at once.
    context_tokens
        Prompt plus output of one request.
    dtype
        Of weights and activations, ``"auto"`` for the model's own.
    kv_cache_memory_bytes
        Size of the KV cache; None leaves it to vLLM.
    tensor_parallel
        Cards that share each layer.
    options
        Other arguments of vLLM's `EngineArgs`, such as ``{"enforce_eager": True}``.
    seed
        Of the seeds of requests that bring none.
    cores
        Taken and ignored.

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds.
    """

    def __init__(
        self,
        *,
        model: str,
        mode: str = "one_process",
        slots: int = 4,
        context_tokens: int = 2048,
        dtype: str = "auto",
        kv_cache_memory_bytes: int | None = None,
        tensor_parallel: int = 1,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        cores: Sequence[int] | None = None,
    ) -> None:
        if mode not in BACKENDS:
            raise DeploymentError(f"vllm: mode={mode!r} does not exist; there are {', '.join(BACKENDS)}")
        if slots < 1 or context_tokens < 2 or tensor_parallel < 1:
            raise DeploymentError(
                f"vllm: slots={slots} and tensor_parallel={tensor_parallel} must be at least 1, "
                f"context_tokens={context_tokens} at least 2"
            )
        if mode == "one_process" and tensor_parallel > 1:
            raise DeploymentError(f"vllm: tensor_parallel={tensor_parallel} needs mode 'processes'")
        self._model, self._mode = model, mode
        self._slots, self._context_tokens = slots, context_tokens
        self._arguments = {
            "model": model,
            "dtype": dtype,
            "max_num_seqs": slots,
            "max_model_len": context_tokens,
            "kv_cache_memory_bytes": kv_cache_memory_bytes,
            "tensor_parallel_size": tensor_parallel,
            "disable_log_stats": True,
            **(options or {}),
        }
        self._random = Random(seed)
        self._backend: Backend | None = None
        self._capabilities: Capabilities | None = None
        self._side_threads: ThreadPoolExecutor | None = None  # loading, tokenizing, closing
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._queue = SlotQueue(slots)
        self._calls: dict[str, EngineCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = count()

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError(f"vllm: '{self._model}' has not been started; await start() first")
        return self._capabilities

    async def start(self) -> None:
        """Load the model; returns when the engine serves.

        Raises
        ------
        EngineLoadError
            If the ``vllm`` extra, the model or memory is missing, or vLLM refuses an argument.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._backend is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._load(), name=f"load {self._model}")
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Abort what runs and free everything; idempotent, also after a failed or cancelled `start`."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._unload(), name=f"close {self._model}")
        await asyncio.shield(self._closing)

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
        check_request(request, engine="vllm")
        backend = self._serving()
        if request.request_id in self._calls:
            raise SpecError(f"vllm: request '{request.request_id}' is already running; ids are unique")
        call = self._calls[request.request_id] = EngineCall(request)
        call.task = asyncio.create_task(self._serve(call, backend), name=f"request {request.request_id}")
        self._tasks.add(call.task)
        call.task.add_done_callback(self._tasks.discard)
        try:
            delta = await call.next_delta()
            while delta.finish_reason is None:
                yield delta
                delta = await call.next_delta()
            yield delta
        finally:
            call.is_over = True
            call.task.cancel()
            del self._calls[request.request_id]

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once, vLLM drops it after the step under way. Unknown ids are ignored."""
        if (call := self._calls.get(request_id)) is not None:
            call.abort()

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request, counted by the model's own tokenizer and chat template."""
        check_request(request, engine="vllm")
        return len(await self._tokenize(self._serving(), request))

    def state(self) -> EngineState:
        """Load at this moment."""
        waiting = sum(not call.has_slot and not call.is_over for call in self._calls.values())
        return EngineState(self._queue.taken, waiting)

    # -- life ------------------------------------------------------------------------------------

    def _serving(self) -> Backend:
        if self._backend is None or self._closing is not None:
            raise EngineCrashedError(f"vllm: '{self._model}' is not serving; start it, or try another replica")
        return self._backend

    async def _load(self) -> None:
        threads = self._side_threads = ThreadPoolExecutor(2, "vllm-side")
        backend = BACKENDS[self._mode](asyncio.get_running_loop())
        try:
            await asyncio.get_running_loop().run_in_executor(threads, backend.open, self._arguments)
        except BaseException as error:
            self._side_threads = None
            threads.shutdown(wait=False)
            if isinstance(error, ImportError):
                raise EngineLoadError(f"vllm: it needs '{error.name}'; pip install \"dask-fmware[vllm]\"") from error
            if isinstance(error, Exception) and not isinstance(error, FMwareError):
                raise EngineLoadError(
                    f"vllm: could not load '{self._model}' ({type(error).__name__}: {str(error)[:300]}); check "
                    "the model, 'options' and kv_cache_memory_bytes"
                ) from error
            raise
        self._backend = backend
        tokenizer = backend.tokenizer
        self._capabilities = Capabilities(
            engine="vllm",
            engine_version=importlib.metadata.version(_distribution()),
            slots=self._slots,
            context_tokens=self._context_tokens,
            longest_token_bytes=max(map(len, (token.encode() for token in tokenizer.get_vocab())), default=16),
            choices=True,
            json_schema=True,
            priority=True,
            prefix_cache=True,
        )

    async def _unload(self) -> None:
        try:
            if self._starting is not None:
                await asyncio.gather(self._starting, return_exceptions=True)
            for call in self._calls.values():
                call.abort()
            if self._tasks:
                await asyncio.wait(self._tasks)
            backend, self._backend = self._backend, None
            threads, self._side_threads = self._side_threads, None
            if threads is not None:
                if backend is not None:
                    await asyncio.get_running_loop().run_in_executor(threads, backend.close)
                threads.shutdown(wait=True)  # idle by now
            self._starting = self._capabilities = None
        finally:
            self._closing = None

    # -- one request -----------------------------------------------------------------------------

    async def _serve(self, call: EngineCall, backend: Backend) -> None:
        """Run one request to its end, whatever that is."""
        request = call.request
        try:
            tokens = await self._tokenize(backend, request)
            check_context(request, len(tokens), self._context_tokens, engine="vllm")
            call.prompt_tokens = len(tokens)
            async with self._queue.slot(request.priority):
                call.has_slot = True
                await self._read(call, backend, tokens)
        except FMwareError as error:
            call.put(error)
        except Exception as error:
            call.put(self._failure(error, request))

    async def _read(self, call: EngineCall, backend: Backend, tokens: list[int]) -> None:
        request, texts, made = call.request, [], 0
        parameters = backend.parameters(request, self._random.getrandbits(31) % SEEDS)
        number = f"{request.request_id}~{next(self._numbers)}"  # an id may come again before vLLM has forgotten it
        finish_reason = None
        async for output in backend.stream(number, tokens, parameters):
            piece = output.outputs[0]
            made += len(piece.token_ids)
            call.cached_tokens = output.num_cached_tokens or call.cached_tokens
            texts.append(piece.text)
            if piece.text or piece.token_ids:
                call.put(Delta(piece.text, len(piece.token_ids)))
            finish_reason = piece.finish_reason
        if finish_reason not in ("stop", "length"):
            raise EngineCrashedError(
                f"vllm: '{self._model}': request '{request.request_id}' ended with {finish_reason!r}; try again"
            )
        check_format(request, "".join(texts), finish_reason, engine="vllm")
        call.put(Delta("", 0, finish_reason, Usage(call.prompt_tokens, made, call.cached_tokens)))

    async def _tokenize(self, backend: Backend, request: Request) -> list[int]:
        work = partial(_tokens, backend.tokenizer, request)
        return await asyncio.get_running_loop().run_in_executor(self._side_threads, work)

    def _failure(self, error: Exception, request: Request) -> FMwareError:
        """Name what vLLM raised; its message may hold the prompt."""
        what = f"vllm: '{self._model}': request '{request.request_id}'"
        if isinstance(error, ValueError) and (request.choices is not None or request.json_schema is not None):
            return OutputFormatError(f"{what}: its choices or schema are refused; simplify them")
        return EngineCrashedError(f"{what} failed ({type(error).__name__}); try again")


def _tokens(tokenizer: Any, request: Request) -> list[int]:
    if request.messages is None:
        return list(tokenizer.encode(request.prompt or ""))
    messages = [asdict(turn) for turn in request.messages]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(prompt, add_special_tokens=False))


def _distribution() -> str:
    """Name under which vLLM is installed: builds for CPUs have another one."""
    return importlib.metadata.packages_distributions()["vllm"][0]
