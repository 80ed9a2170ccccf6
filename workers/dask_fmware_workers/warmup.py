"""A quick latency figure of an engine, measured when it has loaded.

Two short generations give the fixed part, the prompt's part and the decode part of its latency: enough
to tell a fast card from a slow one. A profile replaces it.
"""

from __future__ import annotations

from contextlib import aclosing
from time import perf_counter

from dask_fmware.model.engine import Engine, Request, Sampling
from dask_fmware.spec.deployment import Latency

__all__ = ["measure_latency"]

SHORT, LONG = "Say something.", "Say something about the weather, please. " * 12
OUTPUT_TOKENS, REPEATS = 16, 3


async def measure_latency(engine: Engine) -> Latency:
    """Time a short prompt, a long one and a longer answer on an idle engine, and return the figure.

    Differences of whole generations, the quickest of three each: single tokens may reach us in bursts.
    """
    await _quickest(engine, SHORT, 1)
    short_tokens, _, short_s = await _quickest(engine, SHORT, 1)
    long_tokens, _, long_s = await _quickest(engine, LONG, 1)
    _, output_tokens, decode_s = await _quickest(engine, SHORT, OUTPUT_TOKENS)
    prompt_token_s = max(0.0, (long_s - short_s) / max(1, long_tokens - short_tokens))
    return Latency(
        first_token_s=max(0.0, short_s - prompt_token_s * short_tokens),
        prompt_token_s=prompt_token_s,
        output_token_s=max(0.0, (decode_s - short_s) / max(1, output_tokens - 1)),
    )


async def _quickest(engine: Engine, prompt: str, max_tokens: int) -> tuple[int, int, float]:
    """Return prompt tokens, output tokens and seconds of the quickest of some equal generations."""
    return min([await _generate(engine, prompt, max_tokens, n) for n in range(REPEATS)], key=lambda made: made[2])


async def _generate(engine: Engine, prompt: str, max_tokens: int, seed: int) -> tuple[int, int, float]:
    room = engine.capabilities.context_tokens
    request = Request(
        request_id=f"warmup {len(prompt)} {max_tokens} {seed}",
        max_tokens=min(max_tokens, room // 4),
        prompt=f"{seed} {prompt}"[: room // 2],  # each its own, or the prefix cache would answer
        sampling=Sampling(seed=seed),
    )
    start, usage = perf_counter(), None
    async with aclosing(engine.generate(request)) as deltas:  # type: ignore[type-var]
        async for delta in deltas:
            usage = delta.usage or usage
    seconds = perf_counter() - start
    return (usage.prompt_tokens, usage.output_tokens, seconds) if usage is not None else (0, 0, seconds)
