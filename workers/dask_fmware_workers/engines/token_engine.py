"""What engines share that take prompts as tokens and run them in a backend which batches by itself.

It owns their life, the queue before their slots, the checks and the errors that users see. How a model is loaded
and stepped is a `Backend`'s; it knows no library.

Requests wait here, by priority, until one of the slots is free, so the backend's own queue stays empty: what waits
there could not be reordered. Prompts go in as tokens, so that they are counted once and checked against the
context before anything runs: a request that is too long never reaches a loop that it could end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from random import Random
from typing import Any, ClassVar, Protocol

from dask_fmware.errors import (
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    FMwareError,
    OutputFormatError,
)
from dask_fmware.model.engine import Capabilities, Delta, EngineState, FinishReason, Request, Usage
from dask_fmware_workers.engines.engine_call import EngineCall
from dask_fmware_workers.engines.engine_calls import EngineCalls
from dask_fmware_workers.engines.request_checks import (
    check_context,
    check_request,
    check_size,
    template_refuses,
)
from dask_fmware_workers.engines.slot_queue import SlotQueue

__all__ = ["Backend", "Piece", "RequestFaultError", "TokenEngine", "share_interpreter"]

SWITCH_S = 0.0005


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step made for one request."""

    text: str  # whole characters only
    tokens: int
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0  # of the prompt, as far as known


class _Answer:
    """What a backend has made for one request; it goes on to its reader at once, without another task between."""

    def __init__(self, call: EngineCall) -> None:
        self._call = call
        self.tokens = 0
        self.finish_reason: FinishReason | None = None

    def take(self, piece: Piece) -> None:
        """Hand one piece on."""
        self.tokens += piece.tokens
        self.finish_reason = piece.finish_reason
        self._call.cached_tokens = piece.cached_tokens or self._call.cached_tokens
        if piece.text or piece.tokens:
            self._call.put(Delta(piece.text, piece.tokens))


class RequestFaultError(Exception):
    """Something went wrong with one request, and the others of its backend go on.

    Parameters
    ----------
    fault
        What was raised; its words may hold the prompt.
    """

    def __init__(self, fault: Exception) -> None:
        super().__init__(type(fault).__name__)
        self.fault = fault


def share_interpreter() -> None:
    """Let the event loop have the interpreter soon while a thread of this process steps a model.

    By default Python lets a busy thread keep it for 5 ms, which every first token would wait for.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))


class Backend(Protocol):
    """A model that is loaded, or will be."""

    tokenizer: Any  # of Hugging Face's kind; there once the model is loaded

    def open(self) -> None:
        """Load; blocks."""

    async def generate(
        self, number: str, request: Request, tokens: Sequence[int], seed: int, take: Callable[[Piece], None]
    ) -> None:
        """Generate, handing pieces to `take` as they come, on the event loop; returns after the last.

        `number` is unique. Cancelling aborts. Raises `RequestFaultError` if the others go on,
        else what the library raises.
        """

    def state(self) -> EngineState:
        """What the library counts; running and waiting are not read. Raises `EngineCrashedError` if it has died."""

    def close(self) -> None:
        """Free everything; blocks. Nothing is being generated."""


class TokenEngine:
    """One model served by a backend.

    Parameters
    ----------
    model
        Name for messages.
    slots
        Requests that run at once.
    context_tokens
        Prompt plus output of one request.
    seed
        Of the seeds of requests that bring none.
    """

    name: ClassVar[str]  # as written in a deployment

    def __init__(self, model: str, *, slots: int, context_tokens: int, seed: int) -> None:
        self._model, self._slots, self._context_tokens = model, slots, context_tokens
        self._random = Random(seed)
        self._backend: Backend | None = None
        self._capabilities: Capabilities | None = None
        self._side_threads: ThreadPoolExecutor | None = None  # loading, tokenizing, closing
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._queue = SlotQueue(slots)
        self._calls = EngineCalls(self.name)
        self._numbers = count()

    # -- what a subclass says --------------------------------------------------------------------

    def _make_backend(self, loop: asyncio.AbstractEventLoop) -> Backend:
        raise NotImplementedError

    def _version(self) -> str:
        raise NotImplementedError

    # -- the protocol of engines -----------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError(f"{self.name}: '{self._model}' has not been started; await start() first")
        return self._capabilities

    async def start(self) -> None:
        """Load the model; returns when the engine serves.

        Raises
        ------
        DeploymentError
            If the model or an argument can never be served.
        EngineLoadError
            If the extra or memory is missing, or loading fails in a way that may pass.
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
            If no grammar can be made of the choices or the schema.
        EngineError
            If this request fails, and no other.
        EngineCrashedError
            If the engine is not serving or fails.
        """
        check_request(request, engine=self.name)
        backend = self._serving()
        check_size(request, self.capabilities.longest_token_bytes, self._context_tokens, engine=self.name)
        async with aclosing(self._calls.stream(request, lambda call: self._serve(call, backend))) as deltas:
            async for delta in deltas:
                yield delta

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once, the step under way is its last. Unknown ids are ignored."""
        self._calls.abort(request_id)

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request, counted by the model's own tokenizer and chat template."""
        check_request(request, engine=self.name)
        return len(await self._tokenize(self._serving(), request))

    def state(self) -> EngineState:
        """Load at this moment: slots and queue are counted here, cache and counters by the library.

        Raises
        ------
        EngineCrashedError
            If what runs the model has ended.
        """
        known = self._backend.state() if self._backend is not None else EngineState()
        return replace(known, running=self._queue.taken, waiting=self._calls.waiting)

    # -- life ------------------------------------------------------------------------------------

    def _serving(self) -> Backend:
        if self._backend is None or self._closing is not None:
            raise EngineCrashedError(f"{self.name}: '{self._model}' is not serving; start it, or try another replica")
        return self._backend

    async def _load(self) -> None:
        threads = self._side_threads = ThreadPoolExecutor(2, f"{self.name}-side")
        backend = self._make_backend(asyncio.get_running_loop())
        try:
            await asyncio.get_running_loop().run_in_executor(threads, backend.open)
        except BaseException as error:
            self._side_threads = None
            threads.shutdown(wait=False)
            if isinstance(error, ImportError):
                raise EngineLoadError(
                    f"{self.name}: it needs '{error.name}'; pip install \"dask-fmware[{self.name}]\""
                ) from error
            if isinstance(error, Exception) and not isinstance(error, FMwareError):
                raise EngineLoadError(
                    f"{self.name}: could not load '{self._model}' ({type(error).__name__}: {str(error)[:300]}); check "
                    "the model, its arguments and memory"
                ) from error
            raise
        self._backend = backend
        self._capabilities = Capabilities(
            engine=self.name,
            engine_version=self._version(),
            slots=self._slots,
            context_tokens=self._context_tokens,
            longest_token_bytes=max((len(token.encode()) for token in backend.tokenizer.get_vocab()), default=16),
            choices=True,
            json_schema=True,
            priority=True,
            prefix_cache=True,
        )

    async def _unload(self) -> None:
        try:
            if self._starting is not None:
                await asyncio.gather(self._starting, return_exceptions=True)
            await self._calls.close()
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
            check_context(request, len(tokens), self._context_tokens, engine=self.name)
            call.prompt_tokens = len(tokens)
            async with self._queue.slot(request.priority):
                call.has_slot = True
                await self._generate(call, backend, tokens)
        except FMwareError as error:
            call.put(error)
        except Exception as error:
            call.put(self._failure(error, request))

    async def _generate(self, call: EngineCall, backend: Backend, tokens: list[int]) -> None:
        request, answer = call.request, _Answer(call)
        number = f"{request.request_id}~{next(self._numbers)}"  # an id may come again before it was forgotten
        seed = self._random.getrandbits(31) if request.sampling.seed is None else request.sampling.seed
        await backend.generate(number, request, tokens, seed, answer.take)
        finish_reason = answer.finish_reason
        if finish_reason not in ("stop", "length"):
            raise EngineCrashedError(
                f"{self.name}: '{self._model}': request '{request.request_id}' ended with {finish_reason!r}; try again"
            )
        call.put(Delta("", 0, finish_reason, Usage(call.prompt_tokens, answer.tokens, call.cached_tokens)))

    async def _tokenize(self, backend: Backend, request: Request) -> list[int]:
        work = partial(_tokens, backend.tokenizer, request, f"{self.name}: '{self._model}'")
        return await asyncio.get_running_loop().run_in_executor(self._side_threads, work)

    def _failure(self, error: Exception, request: Request) -> FMwareError:
        """Name what the library raised; its message may hold the prompt."""
        what = f"{self.name}: '{self._model}': request '{request.request_id}'"
        fault = error.fault if isinstance(error, RequestFaultError) else error
        if isinstance(fault, ValueError) and (request.choices is not None or request.json_schema is not None):
            return OutputFormatError(f"{what}: its choices or schema are refused; simplify them")
        if fault is not error:
            return EngineError(f"{what} failed ({type(fault).__name__}), and no other; change its prompt or sampling")
        return EngineCrashedError(f"{what} failed ({type(error).__name__}); try again")


def _tokens(tokenizer: Any, request: Request, model: str) -> list[int]:
    if request.messages is None:
        return list(tokenizer.encode(request.prompt or ""))
    messages = [asdict(turn) for turn in request.messages]
    try:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program, and raises what it likes
        raise template_refuses(request, error, engine=model) from None
    return list(tokenizer.encode(prompt, add_special_tokens=False))
