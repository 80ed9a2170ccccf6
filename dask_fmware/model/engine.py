"""The one protocol behind which every engine stands, and the values that cross it.

An engine serves one model. It knows nothing of workflows, SLOs, Dask or other replicas: it takes
requests, streams deltas and reports what it knows of itself. `tests/engines` holds the suite that
every engine passes; what an engine cannot do it says in its `Capabilities`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dask_fmware.spec.deployment import LONGEST_TOKEN_BYTES

__all__ = ["Capabilities", "Delta", "Engine", "EngineState", "FinishReason", "Message", "Request", "Sampling", "Usage"]

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; ``None`` leaves the engine's default."""

    temperature: float | None = None  # >= 0; 0 is greedy decoding
    top_p: float | None = None  # 0..1
    top_k: int | None = None  # >= 1
    seed: int | None = None  # equal seeds give equal text on one engine build
    stop: tuple[str, ...] = ()  # generation ends before the first of these strings


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; the engine applies its model's chat template."""

    role: Literal["system", "user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, or the embedding of texts: one of `prompt`, `messages`, `texts` is given; none shows in ``repr``.

    An embedding is a call of one step: its texts are read, and the vectors count as one output token.
    """

    request_id: str  # unique on this engine for its lifetime
    max_tokens: int  # upper bound on generated tokens, >= 1
    prompt: str | None = field(default=None, repr=False)
    messages: tuple[Message, ...] | None = field(default=None, repr=False)
    texts: tuple[str, ...] | None = field(default=None, repr=False)  # to be embedded, where `Capabilities.embeds`
    sampling: Sampling = Sampling()
    choices: tuple[str, ...] | None = None  # the text must be one of these
    json_schema: Mapping[str, Any] | None = field(default=None, repr=False)  # the text must be JSON of this schema
    priority: float = 0.0  # lower is served first, where `Capabilities.priority`


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the engine counted them."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # part of prompt_tokens answered from the prefix cache

    def cost(self, prices: Mapping[str, float]) -> float:
        """What this costs at prices for a million tokens: ``input``, ``output``, and ``cached_input`` if it differs.

        >>> Usage(prompt_tokens=1_000_000, output_tokens=500_000).cost({"input": 0.5, "output": 2.0})
        1.5
        """
        fresh, cached_price = self.prompt_tokens - self.cached_tokens, prices.get("cached_input", prices["input"])
        total = fresh * prices["input"] + self.cached_tokens * cached_price + self.output_tokens * prices["output"]
        return total / 1e6


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of generated text. The last delta of a stream carries `finish_reason` and `usage`.

    The last one of an embedding carries `vectors` too, one for each text in their order, unless it was aborted.
    """

    text: str = field(repr=False)
    tokens: int = 0  # generated tokens in this piece; the sum over a stream is usage.output_tokens
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    vectors: Sequence[Sequence[float]] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a started engine can do; constant until it is closed."""

    engine: str  # its own name, e.g. "llama.cpp"; a replica goes by the one in the deployment
    engine_version: str
    slots: int  # requests it runs at once, >= 1
    context_tokens: int  # prompt plus output of one request
    longest_token_bytes: int = LONGEST_TOKEN_BYTES  # of UTF-8: bounds prompt tokens from below
    embeds: bool = False  # it takes `Request.texts` and nothing else; else it takes all but these
    choices: bool = False
    json_schema: bool = False
    priority: bool = False  # takes Request.priority into account
    prefix_cache: bool = False  # reports Usage.cached_tokens
    price_per_million_tokens: Mapping[str, float] | None = None  # see `Usage.cost`; None: nobody asks for money


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine knows of its load at one moment."""

    running: int = 0  # requests that hold a slot
    waiting: int = 0  # accepted requests without a slot
    kv_used: float | None = None  # share of the KV cache in use, 0..1; None where unknown
    prefix_queried_tokens: int | None = None  # prompt tokens looked up in the prefix cache since the start
    prefix_hit_tokens: int | None = None  # of these, found there
    preemptions: int | None = None  # requests that lost their place in the KV cache since the start


@runtime_checkable
class Engine(Protocol):
    """One model, served. All methods are called on one event loop and never block it.

    Its class is called with ``slots``, ``context_tokens`` and the ``arguments`` of the deployment, all by name, and
    with ``cores`` where the deployment gives the card some and ``embeds=True`` where it says so of the model.

    Errors: `DeploymentError` from `start` is final, any other is tried again. From `generate`,
    `ContextOverflowError` for a request that does not fit (before the first delta), `EngineCrashedError` if the engine
    died: it is closed, a new one is started, and its calls are tried elsewhere. A call is tried elsewhere after a
    `CapacityError` too, and at most once more after an `OutputFormatError`, for a format that it refuses.
    Any other error ends the run. Whether an answer has the format is not an engine's to judge: it says how it ended and
    what it took, also where ``max_tokens`` cut it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        ...

    async def start(self) -> None:
        """Load the model; returns when the engine serves. May be cancelled, then `close` is called."""
        ...

    def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the output of one request.

        Closing or cancelling the iterator aborts the request. A request beyond `slots` waits in the
        engine. Text is valid Unicode: bytes of a split character are held back until complete.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop a request within one token; its stream ends with ``finish_reason="abort"``. Unknown ids are ignored."""
        ...

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request, as the engine would count them (chat template applied, texts summed up)."""
        ...

    def state(self) -> EngineState:
        """Load at this moment, without waiting; `EngineCrashedError` if the engine has died since it was started."""
        ...

    async def close(self) -> None:
        """Abort what runs and free everything; idempotent, also after a failed or cancelled `start`."""
        ...
