"""How well emulated engines keep to their law, and what they cost.

    python -m benchmarks.emulated_engine --seed 0

One engine with 64 concurrent calls, then 16 engines in one process with 16 calls each. Every call's first
and last token is compared with a replay of the recorded arrivals through the pure emulation: the error is
|observed - law| / law of TTFT and of latency. Beside it stands how late a bare timer of the same loop was: what
the machine does to any program. (On a clock that jumps, tests/engines/test_emulated.py finds every token within
1 ms.) CPU time is that of the whole process, consumers included.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from benchmarks.support.environment import environment, write
from dask_fmware.model.engine import Request
from dask_fmware.profile.catalog import find
from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.profile.replica import Limits
from dask_fmware_workers.engines import create_engine

MODEL, CARD = "Llama-3.1-8B", "H100"
Seen = tuple[str, float, int, int, float, float]  # id, arrival, prompt, output, first token, last token


async def consumer(engine: Any, name: str, until: float, draw: random.Random, seen: list[Seen]) -> None:
    """Ask one thing after another, with pauses: without them every arrival would fall on the end of a step."""
    loop = asyncio.get_running_loop()
    number = 0
    while loop.time() < until:
        await asyncio.sleep(draw.uniform(0.0, 0.1))
        number += 1
        output, request_id = draw.randrange(50, 400), f"{name}-{number}"
        prompt = f"{request_id:>64}" * draw.randrange(2, 60)
        request = Request(request_id, output, prompt=prompt)
        arrival, first, usage = loop.time(), inf, None
        async for delta in engine.generate(request):
            if delta.tokens and first == inf:
                first = loop.time()
            usage = delta.usage
        assert usage is not None
        assert usage.output_tokens == output
        seen.append((request_id, arrival, usage.prompt_tokens, output, first, loop.time()))


async def bare_timer(late_s: list[float]) -> None:
    """How late a timer is that does nothing else."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.010
        await asyncio.sleep(0.010)
        late_s.append(loop.time() - due)


def replayed(seen: Sequence[Seen], slots: int) -> dict[str, tuple[float, float]]:
    """First and last token of each call by the law alone, from the same arrivals."""
    batch, outputs = EmulatedBatch(find(MODEL, CARD).step_law, Limits(slots)), []
    for name, arrival, prompt, output, _, _ in sorted(seen, key=lambda call: call[1]):
        outputs += batch.advance(arrival)
        batch.add(arrival, name, prompt, output)
    while batch.next_event_at < inf:
        outputs += batch.advance(batch.next_event_at)
    found: dict[str, tuple[float, float]] = {}
    for at, kind, name in outputs:
        found[name] = (at, at) if kind == FIRST else (found[name][0], at)
    return found


async def measure(engines: int, calls: int, seconds: float, interval_s: float, seed: int) -> dict[str, Any]:
    served = [
        create_engine(
            "emulated",
            {
                "catalog": {"model": MODEL, "accelerator": CARD},
                "slots": calls,
                "context_tokens": 8192,
                "stream_interval_s": interval_s,
                "prefix_cache_tokens": 0,
            },
        )
        for _ in range(engines)
    ]
    for engine in served:
        await engine.start()
    seen: list[list[Seen]] = [[] for _ in served]
    until, began, cpu = asyncio.get_running_loop().time() + seconds, time.perf_counter(), time.process_time()
    timer_late_s: list[float] = []
    timer = asyncio.create_task(bare_timer(timer_late_s))
    await asyncio.gather(
        *(
            consumer(engine, f"e{i}c{j}", until, random.Random(f"{seed} {i} {j}"), seen[i])
            for i, engine in enumerate(served)
            for j in range(calls)
        )
    )
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    timer.cancel()
    for engine in served:
        await engine.close()
    rows = []
    for calls_seen in seen:
        law = replayed(calls_seen, calls)
        for name, arrival, _, output, first, last in calls_seen:
            by_first, by_last = law[name]
            rows.append((by_first - arrival, first - by_first, by_last - arrival, last - by_last, output))
    ttft_s, ttft_late_s, latency_s, late_s, tokens = np.array(rows).T

    def percentiles(values: np.ndarray) -> dict[str, float]:
        return {f"p{p}": float(np.percentile(values, p)) for p in (50, 90, 99)}

    return {
        "engines": engines,
        "concurrent_calls_each": calls,
        "stream_interval_s": interval_s,
        "calls": len(rows),
        "tokens": int(tokens.sum()),
        "law_ttft_s": percentiles(ttft_s),
        "law_latency_s": percentiles(latency_s),
        "ttft_lateness_ms": percentiles(1000 * ttft_late_s),
        "latency_lateness_ms": percentiles(1000 * late_s),
        "bare_timer_lateness_ms": percentiles(1000 * np.array(timer_late_s)),
        "ttft_error": percentiles(np.abs(ttft_late_s / ttft_s)),
        "latency_error": percentiles(np.abs(late_s / latency_s)),
        "cpu_share_of_one_core": cpu_s / wall_s,
        "cpu_us_per_call": 1e6 * cpu_s / len(rows),
        "cpu_us_per_token": 1e6 * cpu_s / float(tokens.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    cases = [(1, 64, 0.05), (16, 16, 0.05), (16, 16, 0.01), (16, 64, 0.05)]
    results = [asyncio.run(measure(*case[:2], options.seconds, case[2], options.seed)) for case in cases]
    lines = [
        f"# Emulated engines: {MODEL} on {CARD}, real time",
        "",
        "| engines x calls | stream interval | calls | bare timer late p50 / p90 / p99 | TTFT late p50 / p90 / p99 | "
        "TTFT error p50 / p90 | latency late p50 / p90 / p99 | latency error p50 / p90 / p99 | CPU of one core | "
        "CPU per call |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        names = ("bare_timer_lateness_ms", "ttft_lateness_ms", "latency_lateness_ms", "ttft_error")
        bare, ttft, late, errors = (list(r[name].values()) for name in names)
        cells = [
            f"{r['engines']} x {r['concurrent_calls_each']}",
            f"{1000 * r['stream_interval_s']:.0f} ms",
            str(r["calls"]),
            f"{bare[0]:.2f} / {bare[1]:.2f} / {bare[2]:.2f} ms",
            f"{ttft[0]:.2f} / {ttft[1]:.2f} / {ttft[2]:.2f} ms",
            f"{100 * errors[0]:.2f} / {100 * errors[1]:.2f} %",
            f"{late[0]:.2f} / {late[1]:.2f} / {late[2]:.2f} ms",
            " / ".join(f"{100 * error:.3f}" for error in r["latency_error"].values()) + " %",
            f"{100 * r['cpu_share_of_one_core']:.0f} %",
            f"{r['cpu_us_per_call']:.0f} us",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    where = environment(seed=options.seed)
    lines += [
        "",
        f"`{where['command']}` on {where['processor']}, {where['cores']} cores, Python {where['python']}; the",
    ]
    lines += ["machine was shared, so lateness is an upper bound."]
    print("\n".join(lines))
    write("emulated_engine", {"environment": where, "results": results}, "\n".join(lines))


if __name__ == "__main__":
    main()
