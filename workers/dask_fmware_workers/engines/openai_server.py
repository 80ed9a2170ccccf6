"""Any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp's server, Ollama, or a paid API.

Why choose it
    The model is served elsewhere: a server that somebody else runs, or an API that is paid by the token.
    Such a replica stands beside self-hosted ones and the router chooses between them.

Inputs
    A base URL, the server's name for the model, a dialect, and where the key lies.

What it does
    Requests wait here by priority until one of `slots` is free, so that the server never holds more than
    was agreed. Each is one streamed HTTP request; closing it is how the server learns of an abort. Usage
    is the server's. Prompts are counted by the server's tokenizer where the dialect has one and the
    request could overflow (a token has at least one byte, so most need no question); else they are
    estimated at four bytes a token and the server has the last word. A model that embeds is asked for the vectors of
    a few texts at a time (`Embedding`), in one slot.
    A rate limit (HTTP 429, or 503 with Retry-After) holds all requests of the replica for as long as the
    server says, longer with each refusal in a row, within `rate_limit_wait_s` for each request; meanwhile they say
    a few times a second that they live (a delta without text), so that nobody takes the limit for a hang. When it
    is over one request goes first. Beyond the bound it is a `CapacityError`, with the time until which the router
    gives this replica no calls; so is an exhausted quota, which no waiting mends. Nothing else is retried here:
    retries belong to the router, which knows other replicas. What says that the server is not well (HTTP 5xx, no
    connection, a refused key, a model that it has no more, a hang, a stream that is cut or garbled) is an
    `EngineCrashedError`: the call runs elsewhere and the replica comes back when `start` has found the model again.
    What says that the request is wrong stays an error of that request.

Configuration
    See `OpenAIEngine`. ``dialect: openai`` fits paid APIs and most servers, ``vllm`` and ``llama.cpp`` bring
    guided choices, exact token counts and plain prompts. ``ollama`` is ``openai`` for servers that know the
    limit of an answer as ``max_tokens`` alone; a server that gives more tokens than it may is told in the
    log. The key is never part of a deployment: name an environment variable or a file of the worker.

Trade-offs
    A hop over the network for each call, load by others that nobody reports, and no figure but the one
    measured when the replica starts: a dozen tiny requests, which a ``latency`` in the deployment saves.
    With dialect ``openai`` a prompt is sent as a chat of one message, the tokens of a stream are counted by
    its events until the last one brings the server's own count, and a choice comes as a JSON document
    that is unwrapped when it is complete. One failed stream takes the whole replica out for a moment.
    The client logs requests at DEBUG level: do not turn that on where prompts must stay private.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from random import Random
from time import time
from typing import Any

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineError, FMwareError
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Message, Request, Usage
from dask_fmware.spec.deployment import LONGEST_TOKEN_BYTES
from dask_fmware_workers.engines.api_key import ApiKey
from dask_fmware_workers.engines.engine_call import EngineCall
from dask_fmware_workers.engines.engine_calls import EngineCalls
from dask_fmware_workers.engines.openai_arguments import checked_prices, checked_url
from dask_fmware_workers.engines.openai_client import BYTES_PER_TOKEN, OpenAIClient
from dask_fmware_workers.engines.openai_dialects import DIALECTS
from dask_fmware_workers.engines.openai_embeddings import Embedding
from dask_fmware_workers.engines.openai_faults import retry_after_s
from dask_fmware_workers.engines.rate_limit import RateLimit
from dask_fmware_workers.engines.request_checks import check_context, check_request, check_texts, prompt_bytes
from dask_fmware_workers.engines.slot_queue import SlotQueue

__all__ = ["OpenAIEngine"]

logger = logging.getLogger("dask_fmware.engines")

AROUND_TOKENS = 2  # that a model puts around a text, as it has a beginning and an end


class OpenAIEngine:
    """One model on a server that speaks OpenAI's protocol.

    Parameters
    ----------
    base_url
        Where the protocol begins, such as ``http://10.0.0.7:8000/v1``.
    model
        The server's name for the model.
    dialect
        ``"openai"``, ``"ollama"``, ``"vllm"`` or ``"llama.cpp"``.
    api_key_env, api_key_file
        Environment variable or file of the worker that holds the key; neither for a server without keys.
    slots
        Requests that are sent at once.
    context_tokens
        Prompt plus output of one request.
    first_token_timeout_s
        Seconds until an answer must begin; also bounds connecting and every other question.
    stall_timeout_s
        Seconds between two pieces of an answer.
    rate_limit_wait_s
        Seconds that one request waits for rate limits, in total; beyond, its replica gets no calls until they are over.
    price_per_million_tokens
        ``{"input": 0.5, "output": 1.5}``, with ``"cached_input"`` where it differs.
    extra
        Fields added to every request, such as ``{"reasoning_effort": "low"}``.
    seed
        Of the seeds of requests that bring none.
    embeds
        The model gives vectors and no text: it is asked at ``/embeddings``.
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
        base_url: str,
        model: str,
        dialect: str = "openai",
        api_key_env: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        slots: int = 4,
        context_tokens: int = 2048,
        first_token_timeout_s: float = 60.0,
        stall_timeout_s: float = 30.0,
        rate_limit_wait_s: float = 120.0,
        price_per_million_tokens: Mapping[str, float] | None = None,
        extra: Mapping[str, Any] | None = None,
        seed: int = 0,
        embeds: bool = False,
        cores: Sequence[int] | None = None,
    ) -> None:
        if dialect not in DIALECTS:
            raise DeploymentError(f"openai: dialect={dialect!r} does not exist; there are {', '.join(DIALECTS)}")
        if slots < 1 or context_tokens < 2:
            raise DeploymentError(
                f"openai: slots={slots} must be at least 1, context_tokens={context_tokens} at least 2"
            )
        if not (first_token_timeout_s > 0 and stall_timeout_s > 0 and rate_limit_wait_s >= 0):
            raise DeploymentError(
                f"openai: first_token_timeout_s={first_token_timeout_s} and stall_timeout_s={stall_timeout_s} must be "
                f"above 0, rate_limit_wait_s={rate_limit_wait_s} at least 0"
            )
        self._dialect, self._key = DIALECTS[dialect], ApiKey(api_key_env, api_key_file)
        self._slots, self._context_tokens, self._embeds = slots, context_tokens, embeds
        self._prices = checked_prices(price_per_million_tokens)
        self._extra = dict(extra or {})
        self._random = Random(seed)
        self._client = OpenAIClient(
            checked_url(base_url),
            model,
            self._dialect,
            self._key,
            first_s=first_token_timeout_s,
            stall_s=stall_timeout_s,
        )
        self._where = self._client.where
        self._capabilities: Capabilities | None = None  # while it serves
        self._starting: asyncio.Task[None] | None = None
        self._queue = SlotQueue(slots)
        self._limit = RateLimit(rate_limit_wait_s)
        self._calls = EngineCalls("openai")
        self._has_told_of_limit = False

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._where}, dialect '{self._dialect.name}', key from {self._key.source})"

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError(f"openai: {self._where} has not been started; await start() first")
        return self._capabilities

    async def start(self) -> None:
        """Read the key and reach the server; returns when it answers.

        Raises
        ------
        EngineLoadError
            If the ``openai`` extra, the key, the server or the model is missing.
        """
        if self._capabilities is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._connect(), name=f"connect {self._where}")
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Abort what runs and close the connections; idempotent, also after a failed or cancelled `start`."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        self._capabilities = None
        await self._calls.close()
        await self._client.close()

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the output of one request; see `Engine.generate`.

        Raises
        ------
        SpecError
            If the request is malformed, cannot be said in the dialect, or its id is in use.
        ContextOverflowError
            If prompt plus ``max_tokens`` exceed the context.
        OutputFormatError
            If the server refuses the format.
        CapacityError
            If a rate limit lasts longer than `rate_limit_wait_s`, or a quota is used up.
        EngineCrashedError
            If the server is not well, or the engine is not serving.
        EngineError
            If the server refuses the request or ends the answer for a reason of its own.
        """
        check_request(request, engine="openai", embeds=self._embeds)
        self._serving()
        asked = {} if self._embeds else self._dialect.body(request, self._random.getrandbits(31))
        body = asked | self._extra
        async with aclosing(self._calls.stream(request, lambda call: self._serve(call, body))) as deltas:
            async for delta in deltas:
                yield delta

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once. Unknown ids are ignored."""
        self._calls.abort(request_id)

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request: as the server counts them, or estimated where the dialect cannot ask."""
        check_request(request, engine="openai", embeds=self._embeds)
        self._serving()
        try:
            return await self._client.count(request)
        except Exception as error:
            raise self._client.failure(error, request) from None

    def state(self) -> EngineState:
        """Requests of this replica; what else the server has to do, it does not say."""
        return EngineState(self._queue.taken, self._calls.waiting)

    def _serving(self) -> None:
        if self._capabilities is None:
            raise EngineCrashedError(f"openai: {self._where} is not serving; start it, or try another replica")

    async def _connect(self) -> None:
        greeting = self._dialect.body(Request("start", 1, messages=(Message("user", "Hi"),)), 0)
        await self._client.connect((Embedding(("Hi",)).body() if self._embeds else greeting) | self._extra)
        self._capabilities = Capabilities(
            engine="openai",
            engine_version=self._client.version,
            slots=self._slots,
            context_tokens=self._context_tokens,
            embeds=self._embeds,
            choices=not self._embeds,
            json_schema=not self._embeds,
            priority=True,
            prefix_cache=not self._embeds,
            price_per_million_tokens=self._prices,
        )

    # -- one request -----------------------------------------------------------------------------

    async def _serve(self, call: EngineCall, body: dict[str, Any]) -> None:
        """Run one request to its end, whatever that is."""
        request = call.request
        try:
            await self._check_room(call)
            async with self._queue.slot(request.priority):
                call.has_slot = True
                await self._exchange(call, body)
        except FMwareError as error:
            call.put(error)
        except Exception as error:
            call.put(self._client.failure(error, request))

    async def _check_room(self, call: EngineCall) -> None:
        """Refuse what cannot fit; ask the server's tokenizer only where that is in doubt."""
        request = call.request
        if self._embeds:
            await self._check_texts(call)
            return
        size = prompt_bytes(request)
        most = size + 64 * (1 + len(request.messages or ()))  # what a chat template adds
        if self._dialect.tokenizer is None or (size and most + request.max_tokens <= self._context_tokens):
            call.prompt_tokens = -(-size // BYTES_PER_TOKEN)
            least = -(-size // LONGEST_TOKEN_BYTES)
            check_context(request, min(least, call.prompt_tokens), self._context_tokens, engine="openai")
        else:
            call.prompt_tokens = await self._client.count(request)
            check_context(request, call.prompt_tokens, self._context_tokens, engine="openai")

    async def _check_texts(self, call: EngineCall) -> None:
        """Refuse a text that cannot fit, likewise."""
        texts = call.request.texts or ()
        sizes = [len(text.encode()) for text in texts]
        call.prompt_tokens = sum(-(-size // BYTES_PER_TOKEN) for size in sizes)
        counts = [-(-size // LONGEST_TOKEN_BYTES) for size in sizes]
        if self._dialect.tokenizer is not None:
            for number, size in enumerate(sizes):
                if size + AROUND_TOKENS > self._context_tokens:
                    counts[number] = await self._client.count_text(texts[number])
        check_texts(call.request, counts, self._context_tokens, engine="openai")

    async def _exchange(self, call: EngineCall, body: dict[str, Any]) -> None:
        """Send a request until the server takes it, and hand its answer over."""
        import openai

        what = f"openai: {self._where}: request '{call.request.request_id}'"
        turn = self._limit.turn(what, lambda: call.put(Delta("")))
        made = Embedding(call.request.texts or (), call.prompt_tokens)  # what has come of it stays, whatever is refused
        while True:
            await turn.comes()
            try:
                if self._embeds:
                    last = await self._client.embed(made, body, call.put, turn.taken)
                else:
                    last = await self._answered(call, body, turn.taken)
                break
            except openai.APIStatusError as error:
                wait_s = retry_after_s(error.status_code, error.response.headers, error.body, time())
                if wait_s is None or call.given:
                    raise
                turn.refused(wait_s)
        call.put(last)

    async def _answered(self, call: EngineCall, body: dict[str, Any], taken: Callable[[], None]) -> Delta:
        """Hand over an answer as it comes, and return the last delta."""
        request = call.request
        answer = await self._client.stream(request, body, call.put, taken)
        usage = answer.usage or Usage(call.prompt_tokens, answer.tokens)
        self._look_at_limit(request, usage)
        if rest := answer.rest():
            call.put(Delta(rest, 0))
        return Delta("", 0, answer.finish_reason, usage)

    def _look_at_limit(self, request: Request, usage: Usage) -> None:
        """Say once that the server does not keep to the limit of an answer."""
        if usage.output_tokens > request.max_tokens and not self._has_told_of_limit:
            self._has_told_of_limit = True
            logger.warning(
                "openai: %s gave %d tokens where '%s' was %d; correct 'dialect' if it does not know that field",
                self._where, usage.output_tokens, self._dialect.limit_field, request.max_tokens,
            )  # fmt: skip
