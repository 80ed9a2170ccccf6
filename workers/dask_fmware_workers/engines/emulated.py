"""The emulated engine: the step-time law of a profile, played on the clock.

Why choose it
    Planning, tests and routing benchmarks on hardware that is not there: "eight replicas on L4 cards"
    on a laptop. Everything around the engine is real (Dask, router, streams); only the card is not.

Inputs
    A law (coefficients, a bundled catalog entry or a profile document) and the limits of an engine.

What it does
    It keeps its requests in an `EmulatedBatch`, the closed form that the simulator uses: continuous
    batching, prefill in chunks of what a step has room for, whole sequences reserved in the KV cache,
    waiting requests by priority. `Streams` play it on the clock of the event loop.
    Texts are placeholders: common words, a label of the choices, the smallest document of a schema. Vectors tell
    how often words stand in a text, so that a search over them finds something; they take no KV cache.
    A token is a word of the answer, or four characters of a prompt, label or document.

Configuration
    See `EmulatedEngine`; ``time_scale: 0.1`` plays ten times as fast.

Trade-offs
    A short stream interval shows every token and costs CPU time; 0.05 s is what a reader notices. Outputs
    reach their consumer within 1 ms of the law on an idle loop, the resolution of its timer, so a law with
    steps below some 5 ms is played unevenly. Cards are not shared: two replicas on one card do not slow each
    other here, as they do in the simulator. The prefix cache is credited when a request arrives, not when
    it is admitted, and knows no pressure from running requests.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Mapping, Sequence
from math import inf
from random import Random

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineError, SpecError
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request, Usage
from dask_fmware.profile.emulated_law import find_law
from dask_fmware.profile.replica import Limits
from dask_fmware_workers.engines.emulated_answer import CHARACTERS_PER_TOKEN, Answers, prompt_text
from dask_fmware_workers.engines.emulated_streams import Stream, Streams
from dask_fmware_workers.engines.prefix_blocks import PrefixBlocks
from dask_fmware_workers.engines.request_checks import check_context, check_request, check_texts
from dask_fmware_workers.engines.word_vectors import DIMENSIONS, word_vector

__all__ = ["EmulatedEngine"]

MOST_DIMENSIONS = 65_536


class EmulatedEngine:
    """Answers at the pace of a step-time law.

    Parameters
    ----------
    law
        Coefficients of the plain law in seconds, ``{"w0": .., "w1": .., "w2": .., "w3": .., "w4": ..}``: each
        step, each prefill token, each decoding sequence, each token of their context, prefill squared.
        Exactly one of `law`, `catalog` and `profile` is given.
    catalog
        A bundled profile, ``{"model": "Llama-3.1-8B", "accelerator": "H100"}``.
    profile
        Path of a profile document, as the profile store keeps them.
    time_scale
        Seconds on the clock for one second of the law.
    slots
        Sequences that run at once.
    context_tokens
        Prompt plus output of one request.
    step_tokens
        Token budget of a step: decoding sequences first, the rest is the chunk of prefill.
    kv_tokens
        Tokens that the KV cache holds; None for no limit but the slots.
    prefix_cache_tokens
        Tokens of prompts that are remembered; None for `kv_tokens` or `slots` full contexts, 0 for no cache.
    output_tokens
        Length of answers without a format: None for ``max_tokens``, a number, a list to draw from, or
        ``{"median": 120, "sigma": 0.6}`` of a log-normal distribution.
    labels
        Odds of labels where choices are asked for, ``{"order": 0.7, "search": 0.3}``; None for equal odds.
    load_s
        Seconds that `start` takes, scaled too; None for those of the profile, or 0.
    stream_interval_s
        Seconds on the clock between two pieces of a stream, at least.
    seed
        Of what is drawn for requests that bring no seed.
    embeds
        Give vectors and no text.
    dimensions
        Of these.
    cores
        Taken and ignored.

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds, or the law cannot be found.

    Examples
    --------
    >>> engine = EmulatedEngine(catalog={"model": "Llama-3.1-8B", "accelerator": "H100"}, slots=64)
    """

    def __init__(
        self,
        *,
        law: Mapping[str, float] | None = None,
        catalog: Mapping[str, str] | None = None,
        profile: str | None = None,
        time_scale: float = 1.0,
        slots: int = 4,
        context_tokens: int = 2048,
        step_tokens: int = 2048,
        kv_tokens: int | None = None,
        prefix_cache_tokens: int | None = None,
        output_tokens: int | Sequence[int] | Mapping[str, float] | None = None,
        labels: Mapping[str, float] | None = None,
        load_s: float | None = None,
        stream_interval_s: float = 0.05,
        seed: int = 0,
        embeds: bool = False,
        dimensions: int = DIMENSIONS,
        cores: Sequence[int] | None = None,
    ) -> None:
        if not 0 < time_scale < inf or not 0.001 <= stream_interval_s <= 60:
            raise DeploymentError(
                f"emulated: time_scale={time_scale} must be above 0 and "
                f"stream_interval_s={stream_interval_s} in 0.001..60"
            )
        if context_tokens < 2 or (kv_tokens is not None and kv_tokens < context_tokens):
            raise DeploymentError(
                f"emulated: context_tokens={context_tokens} must be at least 2 and fit into kv_tokens={kv_tokens}; "
                "raise kv_tokens"
            )
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise DeploymentError(f"emulated: dimensions={dimensions} is not in 1..{MOST_DIMENSIONS}")
        self._embeds, self._dimensions = embeds, dimensions
        try:
            self._limits = Limits(slots, step_tokens, None if embeds else kv_tokens)
            found, profile_load_s = find_law(law, catalog, profile)
        except SpecError as error:
            raise DeploymentError(f"emulated: {error}") from error
        self._load_s = time_scale * (profile_load_s if load_s is None else load_s)
        self._context_tokens = context_tokens
        self._cache_tokens = (
            (kv_tokens or slots * context_tokens) if prefix_cache_tokens is None else prefix_cache_tokens
        ) * (not embeds)
        self._answers = Answers(output_tokens, labels)
        self._random = Random(seed)
        self._capabilities: Capabilities | None = None
        self._serving = False
        self._prefixes = PrefixBlocks(self._cache_tokens, CHARACTERS_PER_TOKEN)
        self._streams = Streams(
            found.scaled(time_scale, time_scale), self._limits, stream_interval_s, self._prompt_processed
        )

    # -- the Engine protocol ---------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._capabilities is None:
            raise EngineError("emulated: the engine has not been started; await start() first")
        return self._capabilities

    async def start(self) -> None:
        """Serve from now on, after the load time."""
        await asyncio.sleep(self._load_s)
        self._capabilities = Capabilities(
            engine="emulated",
            engine_version=importlib.metadata.version("dask-fmware"),
            slots=self._limits.slots,
            context_tokens=self._context_tokens,
            longest_token_bytes=4 * CHARACTERS_PER_TOKEN,
            embeds=self._embeds,
            choices=not self._embeds,
            json_schema=not self._embeds,
            priority=True,
            prefix_cache=self._cache_tokens > 0,
        )
        self._serving = True

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the placeholder answer to a request; see `Engine.generate`.

        Raises
        ------
        SpecError
            If the request is malformed, or its id is in use.
        ContextOverflowError
            If prompt plus ``max_tokens`` exceed the context.
        EngineCrashedError
            If the engine is not serving.
        """
        stream = self._accept(request)
        try:
            while True:
                await stream.changed()
                if stream.made > stream.given and stream.ended != "abort":
                    before, stream.given = stream.given, stream.made
                    yield Delta(stream.answer.text(before, stream.given), stream.given - before)
                if stream.ended is not None and (stream.ended == "abort" or stream.made == stream.given):
                    break
            usage = Usage(stream.prompt_tokens, stream.given, stream.cached_tokens)
            yield Delta("", 0, stream.ended, usage, self._vectors(stream))
        finally:
            self._streams.leave(stream)

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once, its slot is free after the step. Unknown ids are ignored."""
        self._streams.abort(request_id)

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request: one for four characters."""
        self._check_serving()
        return sum(_token_counts(request))

    def state(self) -> EngineState:
        """Load at this moment; `kv_used` counts whole sequences, as they are reserved."""
        streams, limit = self._streams, self._limits.kv_tokens
        return EngineState(streams.running, streams.waiting, None if limit is None else streams.reserved_tokens / limit)

    async def close(self) -> None:
        """End all streams with abort."""
        self._serving, self._capabilities = False, None
        self._streams.close()
        self._prefixes = PrefixBlocks(self._cache_tokens, CHARACTERS_PER_TOKEN)
        await asyncio.sleep(0)

    def set_speed(self, speed: float) -> None:
        """Run at `speed` times the law from now on, as a card does that others use too."""
        if not 0 < speed < inf:
            raise SpecError(f"emulated: a speed of {speed} is not above 0")
        self._streams.set_speed(speed)

    # -- requests --------------------------------------------------------------------------------

    def _check_serving(self) -> None:
        if not self._serving:
            raise EngineCrashedError("emulated: the engine is not serving; start it, or try another replica")

    def _accept(self, request: Request) -> Stream:
        arrived_s = asyncio.get_running_loop().time()  # before anything that takes time of its own
        check_request(request, engine="emulated", embeds=self._embeds)
        self._check_serving()
        if request.request_id in self._streams:
            raise SpecError(f"emulated: request '{request.request_id}' is already running; ids are unique")
        prompt = prompt_text(request)
        counts = _token_counts(request)
        prompt_tokens = sum(counts)
        if self._embeds:
            check_texts(request, counts, self._context_tokens, engine="emulated")
        else:
            check_context(request, prompt_tokens, self._context_tokens, engine="emulated")
        default_seed = self._random.getrandbits(31) if request.sampling.seed is None else 0
        answer = self._answers.answer(request, prompt, default_seed)
        blocks = self._prefixes.blocks(prompt)
        cached_tokens = min(self._prefixes.ready_tokens(blocks), prompt_tokens - 1)
        stream = Stream(request, answer, prompt_tokens, cached_tokens, blocks)
        self._streams.add(stream, arrived_s)
        return stream

    def _vectors(self, stream: Stream) -> list[tuple[float, ...]] | None:
        """Return those of a request that came to its end."""
        if not self._embeds or stream.ended == "abort":
            return None
        return [word_vector(text, self._dimensions) for text in stream.request.texts or ()]

    def _prompt_processed(self, stream: Stream) -> None:
        self._prefixes.remember(stream.blocks)


def _token_counts(request: Request) -> list[int]:
    """Tokens of its prompt, or of each of its texts."""
    texts = [prompt_text(request)] if request.texts is None else request.texts
    return [-(-len(text) // CHARACTERS_PER_TOKEN) for text in texts]
