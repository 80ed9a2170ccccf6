"""A connection to one server that speaks OpenAI's protocol: what it lists, what it counts, and answers as they stream.

It owns the HTTP client, its deadlines, and the names of what goes wrong, without a word of what was said. It knows
no slots, no queue and no router.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from dask_fmware.errors import EngineCrashedError, EngineLoadError, FMwareError
from dask_fmware.model.engine import Delta, Request
from dask_fmware_workers.engines.api_key import ApiKey
from dask_fmware_workers.engines.openai_arguments import needs_no_proxy
from dask_fmware_workers.engines.openai_dialects import Answer, Dialect
from dask_fmware_workers.engines.openai_embeddings import Embedding
from dask_fmware_workers.engines.openai_faults import cause_of, fault_of
from dask_fmware_workers.engines.request_checks import prompt_bytes

__all__ = ["BYTES_PER_TOKEN", "OpenAIClient"]

logger = logging.getLogger("dask_fmware.engines")

BYTES_PER_TOKEN = 4  # of prompts that nobody counts
IDLE_S = 2.0  # after which a connection is not used again: servers close theirs, vLLM after 5 s
LINE_BYTES = 16 << 20  # of an event: far above a whole answer with all that may be said of its tokens
END_S = 0.1  # for what follows the last event: a connection is used again if its answer was read to the end
SENT = re.compile(  # the client finds notes to itself among the last
    "accept|accept-encoding|authorization|connection|content-.*|host|transfer-encoding|user-agent|x-stainless-.*"
)
SENT_TO_OPENAI = re.compile("openai-(organization|project)")
NO_KEY = "none"
NO_LIST = (400, 403, 404, 405, 501)  # of models, say some servers, or show it to other keys


class OpenAIClient:
    """One model of one server, once `connect` has reached it.

    Parameters
    ----------
    base_url, model, dialect, key
        As of `OpenAIEngine`.
    first_s
        Seconds until an answer must begin; also bounds every other question.
    stall_s
        Seconds between two pieces of an answer.
    """

    def __init__(
        self, base_url: str, model: str, dialect: Dialect, key: ApiKey, *, first_s: float, stall_s: float
    ) -> None:
        self._base_url, self._model, self._dialect, self._key = base_url, model, dialect, key
        self._first_s, self._stall_s = first_s, stall_s
        self.where = f"model '{model}' at {base_url}"
        self._http: Any = None  # openai.AsyncOpenAI, whose types need the extra

    @property
    def version(self) -> str:
        """Of the protocol as it is spoken."""
        return f"{self._dialect.name} through openai {importlib.metadata.version('openai')}"

    async def connect(self, body: dict[str, Any]) -> None:
        """Read the key and find the model; `body` asks it for a token, where the server does not list it.

        Raises
        ------
        EngineLoadError
            If the extra, the key, the server or the model is missing.
        """
        try:
            openai = await asyncio.to_thread(_import_openai)
        except ImportError as error:
            raise EngineLoadError(f"openai: it needs '{error.name}'; pip install \"dask-fmware[openai]\"") from error
        key = self._key.read()
        kept = openai.DEFAULT_CONNECTION_LIMITS
        limits = type(kept)(
            max_connections=kept.max_connections,
            max_keepalive_connections=kept.max_keepalive_connections,
            keepalive_expiry=IDLE_S,
        )
        try:
            http = openai.AsyncOpenAI(
                base_url=self._base_url,
                api_key=key or NO_KEY,  # without one, the client would look into the environment
                max_retries=0,
                timeout=self._first_s,
                http_client=openai.DefaultAsyncHttpxClient(
                    limits=limits,
                    trust_env=not needs_no_proxy(self._base_url),
                    event_hooks={"request": [partial(_keep_to_the_protocol, key or NO_KEY)]},
                ),
            )
        except Exception as error:  # its library is stricter about names of hosts than the check of arguments
            raise EngineLoadError(
                f"openai: {self.where} cannot be asked ({type(error).__name__}: {error}); correct 'base_url'"
            ) from error
        try:
            async with asyncio.timeout(self._first_s):
                models = await self._models(http)
                if self._model not in models:
                    await self._try(http, body, models)
        except BaseException as error:
            await http.close()
            if isinstance(error, Exception) and not isinstance(error, FMwareError):
                raise EngineLoadError(
                    f"openai: {self.where} cannot be reached ({cause_of(error)}); check the address, and that the "
                    "server runs"
                ) from None
            raise
        self._http = http

    async def close(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def stream(
        self, request: Request, body: dict[str, Any], put: Callable[[Delta], None], taken: Callable[[], None]
    ) -> Answer:
        """Send a request, tell that it is taken, hand over its text as it comes; return the answer when it is whole."""
        answer = Answer(self._dialect, request, f"openai: {self.where}: request '{request.request_id}'")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._first_s) as limit, AsyncExitStack() as open_:
            response = await _sent(lambda: open_.enter_async_context(self._asking(self._http, body)))
            taken()
            lines = _lines(response.iter_bytes())
            async for line in lines:
                event = line[5:].strip() if line.startswith("data:") else ""
                if not event:
                    continue
                if event == "[DONE]":
                    limit.reschedule(None)
                    with suppress(Exception):  # the answer is whole, however its connection ends
                        async with asyncio.timeout(END_S):
                            async for _ in lines:
                                pass
                    break
                text, tokens = answer.take(json.loads(event))
                limit.reschedule(loop.time() + self._stall_s)
                if text or tokens:
                    put(Delta(text, tokens))
        if answer.finish_reason is None:
            raise EngineCrashedError(f"openai: {self.where}: the stream of '{request.request_id}' was cut; try again")
        return answer

    async def embed(
        self, made: Embedding, extra: dict[str, Any], put: Callable[[Delta], None], taken: Callable[[], None]
    ) -> Delta:
        """Send what is left of texts, tell that they are taken; return the last delta, with all vectors."""
        while not made.is_whole:
            body = made.body() | extra
            async with asyncio.timeout(self._first_s):
                answer = await _sent(partial(self._embedding, self._http, body))
            taken()
            made.take(answer)
            if not made.is_whole:
                put(Delta(""))  # a sign of life
        return made.delta()

    def _embedding(self, http: Any, body: dict[str, Any]) -> Awaitable[Any]:
        return http.post("/embeddings", body={"model": self._model, **body}, cast_to=object)  # type: ignore[no-any-return]

    def _asking(self, http: Any, body: dict[str, Any]) -> Any:
        """Return the HTTP request of a body, as a context that gives its answer."""
        kind = http.chat.completions if "messages" in body else http.completions
        asked = {name: body[name] for name in ("messages", "prompt") if name in body}
        others = {name: value for name, value in body.items() if name not in asked and name != "stream"}
        create = kind.with_streaming_response.create
        return create(model=self._model, stream=True, extra_body=others, timeout=None, **asked)

    async def count(self, request: Request) -> int:
        """Prompt tokens as the server counts them, or estimated where the dialect cannot ask."""
        messages = [asdict(turn) for turn in request.messages or ()]
        async with asyncio.timeout(self._first_s):
            if self._dialect.tokenizer is None:
                return -(-prompt_bytes(request) // BYTES_PER_TOKEN)
            if self._dialect.tokenizer == "vllm" and messages:
                return int((await self._post("/tokenize", {"model": self._model, "messages": messages}))["count"])
            if messages:
                prompt = (await self._post("/apply-template", {"messages": messages}))["prompt"]
                return await self._tokens(prompt)
            return sum([await self._tokens(text) for text in request.texts or (request.prompt,)])

    async def count_text(self, text: str) -> int:
        """Tokens of one text, where the dialect can ask."""
        async with asyncio.timeout(self._first_s):
            return await self._tokens(text)

    async def _tokens(self, text: str | None) -> int:
        if self._dialect.tokenizer == "vllm":
            return int((await self._post("/tokenize", {"model": self._model, "prompt": text}))["count"])
        content = {"content": text, "add_special": True, "parse_special": True}
        return len((await self._post("/tokenize", content))["tokens"])

    def failure(self, error: Exception, request: Request) -> FMwareError:
        """Name what went wrong between us and the server, without a word of what was said."""
        import openai

        what = f"openai: {self.where}: request '{request.request_id}'"
        match error:
            case openai.APIStatusError():
                return fault_of(error.status_code, error.body, request, self.where, self._key.source)
            case TimeoutError() | openai.APITimeoutError():
                return EngineCrashedError(
                    f"{what}: no answer within {self._first_s:g} s, or no progress for {self._stall_s:g} s; try again"
                )
            case ValueError() | TypeError() | KeyError() | AttributeError():
                return EngineCrashedError(f"{what}: the answer is not OpenAI's protocol ({type(error).__name__})")
        return EngineCrashedError(f"{what}: the connection failed ({cause_of(error)}); try again")

    async def _models(self, http: Any) -> set[str]:
        """Names of the models that the server lists; none where it lists none."""
        import openai

        try:
            listed = await http.get("/models", cast_to=object)
        except openai.APIStatusError as error:
            if error.status_code in NO_LIST:
                return set()
            fault = fault_of(error.status_code, error.body, Request("start", 1), self.where, self._key.source)
            raise EngineLoadError(str(fault)) from None
        except ValueError:  # no JSON
            listed = None
        entries = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
            raise EngineLoadError(
                f"openai: {self.where} does not speak OpenAI's protocol; base_url usually ends in /v1"
            )
        return {str(name) for entry in entries for name in (entry["id"], *(entry.get("aliases") or ()))}

    async def _try(self, http: Any, body: dict[str, Any], models: set[str]) -> None:
        """Ask for one token: a list may lack aliases, or be kept from a key that is for chats alone."""
        import openai

        listed = "it has: " + ", ".join(sorted(models)[:8]) if models else "it lists none"
        try:
            if "input" in body:
                await self._embedding(http, body)
            else:
                async with self._asking(http, body):
                    pass
        except openai.APIStatusError as error:
            status = error.status_code
            if status == 404:
                raise EngineLoadError(
                    f"openai: {self.where} is not served there ({listed}); correct 'model' or 'base_url'"
                ) from None
            if status in (401, 403) or status >= 500:
                fault = fault_of(status, error.body, Request("start", 1), self.where, self._key.source)
                raise EngineLoadError(str(fault)) from None  # any other is of this one question
        if models:
            logger.warning("openai: %s is not in its list (%s), and is asked all the same", self.where, listed)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask one of the server's own questions, which lie beside the protocol."""
        url = self._base_url.removesuffix("/").removesuffix("/v1") + path
        return dict(await _sent(lambda: self._http.post(url, body=body, cast_to=object)))


async def _sent(send: Callable[[], Awaitable[Any]]) -> Any:
    """Send a request, again if there was no answer: a server may close a connection just when it is used once more."""
    import openai

    try:
        return await send()
    except openai.APITimeoutError:
        raise
    except openai.APIConnectionError:
        return await send()


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines of a stream of events, which end at line feeds alone: a text may hold other ends of lines as they are."""
    held = bytearray()
    async for piece in pieces:
        *ends, begun = piece.split(b"\n")
        for end in ends:
            held += end
            yield held.decode()
            held.clear()
        held += begun
        if len(held) > LINE_BYTES:  # no memory is enough for one that does not end
            raise ValueError("a line is too long")


async def _keep_to_the_protocol(key: str, request: Any) -> None:
    """Take out of an HTTP request what its server has no need of, and any key but that of the deployment.

    The client sends to any server what the environment holds for OpenAI's own: OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS.
    """
    if "authorization" in request.headers:  # not where a redirection to elsewhere took it out
        request.headers["authorization"] = f"Bearer {key}"
    is_openai = request.url.host.endswith(".openai.com")
    for name in list(request.headers):
        if not (SENT.fullmatch(name) or (is_openai and SENT_TO_OPENAI.fullmatch(name))):
            del request.headers[name]


def _import_openai() -> Any:
    import openai
    import openai.resources.chat.completions
    import openai.resources.completions

    return openai
