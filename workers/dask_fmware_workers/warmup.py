"""A quick latency figure of an engine, measured when it has loaded.

Two short generations give the fixed part, the prompt's part and the decode part of its latency: enough
to tell a fast card from a slow one. A profile replaces it.
"""

from __future__ import annotations

from contextlib import aclosing
from time import perf_counter
from typing import NamedTuple

from dask_fmware.model.engine import Engine, Request, Sampling
from dask_fmware.spec.deployment import Latency

__all__ = ["measure_latency"]

SHORT, LONG = "Say something.", "Say something about the weather, please. " * 12
OUTPUT_TOKENS, REPEATS = 16, 3


async def measure_latency(engine: Engine) -> Latency:
    """Time a short prompt, a long one and a longer answer on an idle engine, and return the figure.

    One that embeds is timed over texts, where no answer is longer. Differences of whole generations, the quickest of
    three each: single tokens may reach us in bursts.
    """
    await _generate(engine, SHORT, 1, seed=0)
    short = await _repeat(engine, SHORT, 1)
    long = await _repeat(engine, LONG, 1)
    decoding = await _repeat(engine, SHORT, OUTPUT_TOKENS)
    short_s, long_s = min(made.seconds for made in short), min(made.seconds for made in long)
    prompt_token_s = max(0.0, (long_s - short_s) / max(1, long[0].prompt_tokens - short[0].prompt_tokens))
    longest = max(made.output_tokens for made in decoding)  # an answer may end early
    decode_s = min(made.seconds for made in decoding if made.output_tokens == longest)
    return Latency(
        first_token_s=max(0.0, short_s - prompt_token_s * short[0].prompt_tokens),
        prompt_token_s=prompt_token_s,
        output_token_s=max(0.0, (decode_s - short_s) / max(1, longest - 1)),
    )


class _Generation(NamedTuple):
    prompt_tokens: int
    output_tokens: int
    seconds: float


async def _repeat(engine: Engine, prompt: str, max_tokens: int) -> list[_Generation]:
    return [await _generate(engine, prompt, max_tokens, seed) for seed in range(1, REPEATS + 1)]


async def _generate(engine: Engine, prompt: str, max_tokens: int, seed: int) -> _Generation:
    room = engine.capabilities.context_tokens
    name = f"warmup {len(prompt)} {max_tokens} {seed}"
    text = f"{seed} {prompt}"[: room // 2]  # each its own, or the prefix cache would answer
    if engine.capabilities.embeds:
        request = Request(name, 1, texts=(text,))
    else:
        request = Request(name, min(max_tokens, room // 4), prompt=text, sampling=Sampling(seed=seed))
    start, usage = perf_counter(), None
    async with aclosing(engine.generate(request)) as deltas:  # type: ignore[type-var]
        async for delta in deltas:
            usage = delta.usage or usage
    seconds = perf_counter() - start
    return _Generation(usage.prompt_tokens, usage.output_tokens, seconds) if usage else _Generation(0, 0, seconds)
