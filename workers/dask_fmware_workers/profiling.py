"""Measures an engine for the Profiler: what it is asked to run, with the time of every token.

It runs one experiment at a time on an engine that has no other calls, and passes on what memory is known to be its
own. It draws no conclusions: steps and laws are found by `dask_fmware.profile` from what it returns.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from dask_fmware.errors import FMwareError
from dask_fmware.model.engine import Engine, Request, Sampling
from dask_fmware_workers.memory import Footprint, kv_bytes_per_token, weight_bytes

__all__ = ["measure"]

WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "by", "with", "as", "at", "from", "it")


async def measure(
    engine: Engine,
    question: Mapping[str, Any],
    footprint: Footprint,
    arguments: Mapping[str, Any],
    of_files: int | None = None,
) -> dict[str, Any]:
    """Answer one question of the Profiler in plain values.

    Parameters
    ----------
    question
        ``{"kind": "facts"}``, or ``{"kind": "streams", ...}`` with `background` and `probes` as pairs of
        prompt tokens and output tokens, `lead_tokens` and a `seed`: probes are submitted together as soon as
        every background stream has that many tokens.
    footprint
        What loading the engine added.
    arguments
        Of the engine in the deployment.
    of_files
        Bytes of the files of its weights as they were loaded, see `file_bytes`.
    """
    try:
        if question["kind"] == "facts":
            made = engine.capabilities
            return {
                "slots": made.slots,
                "context_tokens": made.context_tokens,
                "weight_bytes": weight_bytes(arguments, footprint, of_files),
                "kv_bytes_per_token": await asyncio.to_thread(kv_bytes_per_token, arguments),
                "process_bytes": footprint.process_bytes,
                "gpu_bytes": footprint.gpu_bytes,
            }
        experiment = _Streams(engine, int(question["seed"]))
        traces = await experiment.run(question["background"], question["probes"], int(question["lead_tokens"]))
        return {"traces": traces}
    except FMwareError as error:
        return {"error": f"{type(error).__name__}: {error}"}


@dataclass(slots=True, eq=False)
class _Stream:
    """One request of an experiment."""

    request: Request
    prompt_tokens: int
    submitted_s: float = 0.0
    cached_tokens: int = 0
    finished: bool = False
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        return {
            "submitted_s": self.submitted_s,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "finished": self.finished,
            "arrivals": self.arrivals,
        }


class _Streams:
    """Concurrent requests on one engine, each token with its time."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._random = random.Random(seed)
        self._led = asyncio.Event()

    async def run(
        self, background: Sequence[Sequence[int]], probes: Sequence[Sequence[int]], lead_tokens: int
    ) -> list[dict[str, Any]]:
        """Return a trace for each stream, background first."""
        first = [await self._stream(*wanted) for wanted in background]
        second = [await self._stream(*wanted) for wanted in probes]
        began = perf_counter()
        running: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._follow(stream, began, first, lead_tokens)) for stream in first
        ]
        try:
            if second:
                if first:
                    led = asyncio.create_task(self._led.wait())
                    running.append(led)
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                probing = [asyncio.create_task(self._follow(stream, began, (), 0)) for stream in second]
                running += probing  # where one fails, none goes on
                await asyncio.gather(*probing)
                for task in running:
                    if task.done():
                        task.result()  # raises why a background stream failed: the probes ran beside fewer
            else:
                await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return [stream.to_wire() for stream in (*first, *second)]

    async def _follow(self, stream: _Stream, began: float, group: Sequence[_Stream], lead_tokens: int) -> None:
        stream.submitted_s = perf_counter() - began
        async with aclosing(self._engine.generate(stream.request)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                if delta.tokens:
                    stream.arrivals.append((perf_counter() - began, delta.tokens))
                    if group and all(len(other.arrivals) >= lead_tokens for other in group):
                        self._led.set()
                if delta.usage is not None:
                    stream.cached_tokens, stream.finished = delta.usage.cached_tokens, True

    async def _stream(self, prompt_tokens: int, max_tokens: int) -> _Stream:
        """Make a prompt of about so many tokens, different from all others from its first word on."""
        words = [f"{self._random.getrandbits(40):x}"]
        while True:
            request = Request(
                request_id=f"profile {self._random.getrandbits(64):x}",
                max_tokens=max_tokens,
                prompt=" ".join(words),
                sampling=Sampling(seed=self._random.getrandbits(31)),
            )
            counted = await self._engine.count_tokens(request)
            short = prompt_tokens - counted
            if short <= 1 or counted + max_tokens >= self._engine.capabilities.context_tokens:
                return _Stream(request, counted)
            words += self._random.choices(WORDS, k=max(1, short * 2 // 5))  # a word has at most 2.5 tokens or so
