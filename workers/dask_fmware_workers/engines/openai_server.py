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
    estimated at four bytes a token and the server has the last word.
    A rate limit (HTTP 429, or 503 with Retry-After) holds all requests of the replica for as long as the
    server says, within `rate_limit_wait_s` for each request; beyond that, and for an exhausted quota, it is
    a `CapacityError`. Nothing else is retried here: retries belong to the router, which knows other
    replicas. What says that the server is not well (HTTP 5xx, no connection, a refused key, a hang, a
    stream that is cut or garbled) is an `EngineCrashedError`: the call runs elsewhere and the replica
    comes back when `start` has reached the server again. What says that the request is wrong stays an
    error of that request.

Configuration
    See `OpenAIEngine`. ``dialect: openai`` fits paid APIs and most servers, ``vllm`` and ``llama.cpp`` bring
    guided choices, exact token counts and plain prompts. The key is never part of a deployment: name
    an environment variable or a file of the worker.

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
import importlib.metadata
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from time import time
from typing import Any
from urllib.parse import urlsplit

from dask_fmware.errors import (
    CapacityError,
    DeploymentError,
    EngineCrashedError,
    EngineError,
    EngineLoadError,
    FMwareError,
    SpecError,
)
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request, Usage
from dask_fmware.spec.deployment import LONGEST_TOKEN_BYTES
from dask_fmware_workers.engines.api_key import ApiKey
from dask_fmware_workers.engines.engine_call import EngineCall
from dask_fmware_workers.engines.openai_dialects import DIALECTS, Answer
from dask_fmware_workers.engines.openai_faults import fault_of, retry_after_s
from dask_fmware_workers.engines.request_checks import check_context, check_format, check_request
from dask_fmware_workers.engines.slot_queue import SlotQueue

__all__ = ["OpenAIEngine", "Spent"]

BYTES_PER_TOKEN = 4  # of prompts that nobody counts
PRICES = ("input", "cached_input", "output")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a replica has used since it was made."""

    requests: int = 0  # answered to their end
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None  # in the currency of the prices; None without prices
    rate_limited: int = 0  # answers that told us to wait


class OpenAIEngine:
    """One model on a server that speaks OpenAI's protocol.

    Parameters
    ----------
    base_url
        Where the protocol begins, such as ``http://10.0.0.7:8000/v1``.
    model
        The server's name for the model.
    dialect
        ``"openai"``, ``"vllm"`` or ``"llama.cpp"``.
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
        Seconds that one request waits for rate limits, in total.
    price_per_million_tokens
        ``{"input": 0.5, "output": 1.5}``, with ``"cached_input"`` where it differs.
    extra
        Fields added to every request, such as ``{"reasoning_effort": "low"}``.
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
        base_url: str,
        model: str,
        dialect: str = "openai",
        api_key_env: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        slots: int = 4,
        context_tokens: int = 2048,
        first_token_timeout_s: float = 60.0,
        stall_timeout_s: float = 30.0,
        rate_limit_wait_s: float = 30.0,
        price_per_million_tokens: Mapping[str, float] | None = None,
        extra: Mapping[str, Any] | None = None,
        seed: int = 0,
        cores: Sequence[int] | None = None,
    ) -> None:
        self._base_url = _checked_url(base_url)
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
        self._model, self._dialect = model, DIALECTS[dialect]
        self._key = ApiKey(api_key_env, api_key_file)
        self._slots, self._context_tokens = slots, context_tokens
        self._first_s, self._stall_s, self._wait_s = first_token_timeout_s, stall_timeout_s, rate_limit_wait_s
        self._prices = _checked_prices(price_per_million_tokens)
        self._extra = dict(extra or {})
        self._random = Random(seed)
        self._where = f"model '{model}' at {self._base_url}"

        self._client: Any = None  # openai.AsyncOpenAI, whose types need the extra
        self._capabilities: Capabilities | None = None
        self._starting: asyncio.Task[None] | None = None
        self._queue = SlotQueue(slots)
        self._calls: dict[str, EngineCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._not_before = 0.0  # on the loop's clock; requests wait until then
        self._spent = Spent(cost=None if self._prices is None else 0.0)

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._where}, dialect '{self._dialect.name}', key from {self._key.source})"

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError(f"openai: {self._where} has not been started; await start() first")
        return self._capabilities

    @property
    def spent(self) -> Spent:
        """Requests, tokens and cost so far; aborted and failed requests are not in it."""
        return self._spent

    async def start(self) -> None:
        """Read the key and reach the server; returns when it answers.

        Raises
        ------
        EngineLoadError
            If the ``openai`` extra, the key, the server or the model is missing.
        """
        if self._client is not None:
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
        client, self._client, self._capabilities = self._client, None, None
        for call in self._calls.values():
            call.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if client is not None:
            await client.close()

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the output of one request; see `Engine.generate`.

        Raises
        ------
        SpecError
            If the request is malformed, cannot be said in the dialect, or its id is in use.
        ContextOverflowError
            If prompt plus ``max_tokens`` exceed the context.
        OutputFormatError
            If ``max_tokens`` cuts a label or a document, or the server refuses the format.
        CapacityError
            If a rate limit lasts longer than `rate_limit_wait_s`, or a quota is used up.
        EngineCrashedError
            If the server is not well, or the engine is not serving.
        EngineError
            If the server refuses the request or ends the answer for a reason of its own.
        """
        check_request(request, engine="openai")
        self._serving()
        if request.request_id in self._calls:
            raise SpecError(f"openai: request '{request.request_id}' is already running; ids are unique")
        body = self._dialect.body(request, self._random.getrandbits(31)) | self._extra
        call = self._calls[request.request_id] = EngineCall(request)
        call.task = asyncio.create_task(self._serve(call, body), name=f"request {request.request_id}")
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
        """Stop a request; its stream ends at once. Unknown ids are ignored."""
        if (call := self._calls.get(request_id)) is not None:
            call.abort()

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request: as the server counts them, or estimated where the dialect cannot ask."""
        check_request(request, engine="openai")
        self._serving()
        try:
            return await self._count(request)
        except FMwareError:
            raise
        except Exception as error:
            raise self._failure(error, request) from None

    def state(self) -> EngineState:
        """Requests of this replica; what else the server has to do, it does not say."""
        waiting = sum(not call.has_slot and not call.is_over for call in self._calls.values())
        return EngineState(self._queue.taken, waiting)

    # -- reaching the server ---------------------------------------------------------------------

    def _serving(self) -> Any:
        if self._client is None:
            raise EngineCrashedError(f"openai: {self._where} is not serving; start it, or try another replica")
        return self._client

    async def _connect(self) -> None:
        try:
            openai = await asyncio.to_thread(_import_openai)
        except ImportError as error:
            raise EngineLoadError(f"openai: it needs '{error.name}'; pip install \"dask-fmware[openai]\"") from error
        key = self._key.read()
        client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=key or "none",  # without one, the client would look into the environment
            max_retries=0,
            timeout=self._first_s,
        )
        try:
            async with asyncio.timeout(self._first_s):
                models = await self._models(client)
        except BaseException as error:
            await client.close()
            if isinstance(error, Exception) and not isinstance(error, FMwareError):
                raise EngineLoadError(
                    f"openai: {self._where} cannot be reached ({type(error).__name__}); check the address, and that "
                    "the server runs"
                ) from None
            raise
        if models and self._model not in models:
            await client.close()
            known = ", ".join(sorted(models)[:8])
            raise EngineLoadError(f"openai: {self._where} is not served there (it has: {known}); correct 'model'")
        self._client = client
        self._capabilities = Capabilities(
            engine="openai",
            engine_version=f"{self._dialect.name} through openai {importlib.metadata.version('openai')}",
            slots=self._slots,
            context_tokens=self._context_tokens,
            choices=True,
            json_schema=True,
            priority=True,
            prefix_cache=True,
            price_per_million_tokens=self._prices,
        )

    async def _models(self, client: Any) -> set[str]:
        """Names of the models that the server lists; none where it lists none."""
        import openai

        try:
            listed = await client.get("/models", cast_to=object)
        except openai.APIStatusError as error:
            if error.status_code in (404, 405):
                return set()
            fault = fault_of(error.status_code, error.body, Request("start", 1), self._where, self._key.source)
            raise EngineLoadError(str(fault)) from None
        except ValueError:  # no JSON
            listed = None
        entries = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
            raise EngineLoadError(
                f"openai: {self._where} does not speak OpenAI's protocol; base_url usually ends in /v1"
            )
        return {str(name) for entry in entries for name in (entry["id"], *(entry.get("aliases") or ()))}

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
            call.put(self._failure(error, request))

    async def _check_room(self, call: EngineCall) -> None:
        """Refuse what cannot fit; ask the server's tokenizer only where that is in doubt."""
        request = call.request
        size = _prompt_bytes(request)
        most = size + 64 * (1 + len(request.messages or ()))  # what a chat template adds
        if self._dialect.tokenizer is None or (size and most + request.max_tokens <= self._context_tokens):
            call.prompt_tokens = -(-size // BYTES_PER_TOKEN)
            least = -(-size // LONGEST_TOKEN_BYTES)
            check_context(request, min(least, call.prompt_tokens), self._context_tokens, engine="openai")
        else:
            call.prompt_tokens = await self._count(request)
            check_context(request, call.prompt_tokens, self._context_tokens, engine="openai")

    async def _exchange(self, call: EngineCall, body: dict[str, Any]) -> None:
        """Send a request until the server takes it, and read the answer."""
        import openai

        loop, waited_s = asyncio.get_running_loop(), 0.0
        while True:
            hold_s = self._not_before - loop.time()
            if hold_s > 0:
                if waited_s + hold_s > self._wait_s:
                    raise CapacityError(
                        f"openai: {self._where}: request '{call.request.request_id}' would wait {hold_s:.1f} s for the "
                        f"rate limit after {waited_s:.1f} s, more than rate_limit_wait_s={self._wait_s:g}; lower slots "
                        "or raise rate_limit_wait_s"
                    )
                waited_s += hold_s
                await asyncio.sleep(hold_s)
                continue
            try:
                return await self._read(call, body)
            except openai.APIStatusError as error:
                wait_s = retry_after_s(error.status_code, error.response.headers, error.body, time())
                if wait_s is None or call.given:
                    raise
                self._spent = replace(self._spent, rate_limited=self._spent.rate_limited + 1)
                self._not_before = max(self._not_before, loop.time() + max(wait_s, 0.05))

    async def _read(self, call: EngineCall, body: dict[str, Any]) -> None:
        request, texts = call.request, []
        answer = Answer(self._dialect, request, f"openai: {self._where}: request '{request.request_id}'")
        loop = asyncio.get_running_loop()
        client = self._serving()
        kind = client.chat.completions if "messages" in body else client.completions
        asked = {name: body[name] for name in ("messages", "prompt") if name in body}
        others = {name: value for name, value in body.items() if name not in asked and name != "stream"}
        async with (
            asyncio.timeout(self._first_s) as limit,
            kind.with_streaming_response.create(
                model=self._model, stream=True, extra_body=others, timeout=None, **asked
            ) as response,
        ):
            async for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                event = line[5:].strip()
                if event == "[DONE]":
                    break
                text, tokens = answer.take(json.loads(event))
                limit.reschedule(loop.time() + self._stall_s)
                texts.append(text)
                if text or tokens:
                    call.put(Delta(text, tokens))
        if answer.finish_reason is None:
            raise EngineCrashedError(f"openai: {self._where}: the stream of '{request.request_id}' was cut; try again")
        rest = answer.rest()
        if answer.finish_reason == "length":
            check_format(request, "".join(texts) + rest, "length", engine="openai")
        usage = answer.usage or Usage(call.prompt_tokens, answer.tokens)
        self._account(usage)
        if rest:
            call.put(Delta(rest, 0))
        call.put(Delta("", 0, answer.finish_reason, usage))

    def _failure(self, error: Exception, request: Request) -> FMwareError:
        """Name what went wrong between us and the server, without a word of what was said."""
        import openai

        what = f"openai: {self._where}: request '{request.request_id}'"
        match error:
            case openai.APIStatusError():
                return fault_of(error.status_code, error.body, request, self._where, self._key.source)
            case TimeoutError() | openai.APITimeoutError():
                return EngineCrashedError(
                    f"{what}: no answer within {self._first_s:g} s, or no progress for {self._stall_s:g} s; try again"
                )
            case ValueError() | TypeError() | KeyError() | AttributeError():
                return EngineCrashedError(f"{what}: the answer is not OpenAI's protocol ({type(error).__name__})")
        return EngineCrashedError(f"{what}: the connection failed ({type(error).__name__}); try again")

    async def _count(self, request: Request) -> int:
        """Prompt tokens as the server counts them."""
        messages = [asdict(turn) for turn in request.messages or ()]
        async with asyncio.timeout(self._first_s):
            match self._dialect.tokenizer:
                case None:
                    return -(-_prompt_bytes(request) // BYTES_PER_TOKEN)
                case "vllm":
                    asked = {"messages": messages} if messages else {"prompt": request.prompt}
                    return int((await self._post("/tokenize", {"model": self._model, **asked}))["count"])
                case "llama.cpp":
                    prompt = request.prompt
                    if messages:
                        prompt = (await self._post("/apply-template", {"messages": messages}))["prompt"]
                    content = {"content": prompt, "add_special": True, "parse_special": True}
                    return len((await self._post("/tokenize", content))["tokens"])

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask one of the server's own questions, which lie beside the protocol."""
        url = self._base_url.removesuffix("/").removesuffix("/v1") + path
        return dict(await self._serving().post(url, body=body, cast_to=object))

    def _account(self, usage: Usage) -> None:
        spent = self._spent
        cost = None if self._prices is None or spent.cost is None else spent.cost + usage.cost(self._prices)
        self._spent = replace(spent, requests=spent.requests + 1, usage=spent.usage + usage, cost=cost)


def _import_openai() -> Any:
    import openai
    import openai.resources.chat.completions
    import openai.resources.completions

    return openai


def _prompt_bytes(request: Request) -> int:
    if request.messages is None:
        return len((request.prompt or "").encode())
    return sum(len(turn.content.encode()) for turn in request.messages)


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query:
        raise DeploymentError(
            f"openai: base_url at '{parts.hostname}' holds a user, password or query; give the key by api_key_env or "
            "api_key_file"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DeploymentError(f"openai: base_url={base_url!r} is no http or https address, such as http://host:8000/v1")
    return base_url


def _checked_prices(prices: Mapping[str, float] | None) -> dict[str, float] | None:
    if prices is None:
        return None
    if not {"input", "output"} <= set(prices) <= set(PRICES) or not all(0 <= price < 1e9 for price in prices.values()):
        raise DeploymentError(
            f"openai: price_per_million_tokens={dict(prices)} must give input and output, and may give cached_input, "
            "each at least 0"
        )
    return dict(prices)
