"""Batch evaluation: throughput against what the engines alone can give.

    python -m benchmarks.evaluation

The RAG workflow of the demo, whose retrieval is real, on emulated engines that saturate at 100 calls a second for each
of its two models. First each engine alone, its slots filled by hand in one process; then `fm.evaluate` over a CSV file.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from dask_fmware.demo.inputs import QUESTIONS
from dask_fmware.demo.rag import rag
from dask_fmware.model.engine import Request
from dask_fmware_workers.engines.emulated import EmulatedEngine

STEP_S = 0.01  # of an engine; a call takes its output tokens times that
SLOTS = {"small": 16, "large": 48}  # the output tokens of its calls, so that a call ends every 10 ms


def deployment(step_s: float) -> dict[str, Any]:
    engine = {"law": {"w0": step_s, "w1": 0, "w2": 0, "w3": 0}, "step_tokens": 65536, "stream_interval_s": 1.0}
    return {
        "accelerators": {"card": {"cards": 2, "price_per_hour": 3.6}},
        "models": {
            model: {
                "engine": "emulated",
                "slots": slots,
                "context_tokens": 4096,
                "arguments": engine,
                "on": {"card": {"replicas": 1}},
            }
            for model, slots in SLOTS.items()
        },
        "light_workers": {"count": 1, "threads": 4},
        "router": {"policy": "slack"},
    }


def write_questions(path: Path, rows: int) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "question"])
        writer.writerows((n, f"{QUESTIONS[n % len(QUESTIONS)]} ({n})") for n in range(rows))


async def alone(model: str, seconds: float, step_s: float) -> float:
    """Calls a second of one engine whose slots are filled by hand."""
    engine = EmulatedEngine(slots=SLOTS[model], context_tokens=4096, **deployment(step_s)["models"][model]["arguments"])
    await engine.start()
    started, done = time.monotonic(), 0

    async def slot(number: int) -> None:
        nonlocal done
        turn = 0
        while time.monotonic() - started < seconds:
            turn += 1
            request = Request(f"{number}-{turn}", max_tokens=SLOTS[model], prompt="word " * 40)
            async for _ in engine.generate(request):
                pass
            done += 1

    await asyncio.gather(*map(slot, range(SLOTS[model])))
    took = time.monotonic() - started
    await engine.close()
    return done / took


def throughput(rows: int, out: Path, step_s: float) -> dict[str, Any]:
    engines = {model: asyncio.run(alone(model, 6.0, step_s)) for model in SLOTS}
    write_questions(out / "questions.csv", rows)
    memory: list[int] = []
    with Client(fm.LocalModelCluster(deployment(step_s), dashboard_address=None)) as client:
        fm.wait_ready(client)
        fm.evaluate(rag, out / "questions.csv", output=out / "warm.parquet", limit=200, progress=False)
        me = psutil.Process()
        cpu, started = me.cpu_times(), time.monotonic()
        fm.evaluate(
            rag,
            out / "questions.csv",
            output=out / "answers.parquet",
            progress=lambda progress: memory.append(me.memory_info().rss),
        )
        took = time.monotonic() - started
        spent = me.cpu_times()
    calls = 2 * rows / took
    saturation = 2 * min(engines.values())  # each row has a call of each model
    return {
        "rows": rows,
        "seconds": took,
        "calls_per_s": calls,
        "engines_alone_calls_per_s": engines,
        "share_of_engines": calls / saturation,
        "client_and_scheduler_cpu_ms_per_row": 1e3 * (spent.user + spent.system - cpu.user - cpu.system) / rows,
        "client_rss_mb": quarters(memory),
    }


def quarters(memory: list[int]) -> list[float]:
    """Largest memory in each quarter of a job, MB."""
    size = max(1, len(memory) // 4)
    return [round(max(memory[i : i + size]) / 1e6, 1) for i in range(0, 4 * size, size)][:4]


def table(data: dict[str, Any]) -> str:
    """The result for people."""
    alone = ", ".join(f"{model} {rate:.1f}" for model, rate in data["engines_alone_calls_per_s"].items())
    quarters_mb = ", ".join(f"{mb:.0f}" for mb in data["client_rss_mb"])
    return "\n".join(
        [
            "# Batch evaluation beside the engines alone",
            "",
            f"{data['rows']:,} rows of the RAG workflow in {data['seconds']:.0f} s on {data['environment']['cores']} "
            f"cores, load average {data['load_average'][0]:.1f} at the end.",
            "",
            f"- calls a second: {data['calls_per_s']:.1f}; engines alone: {alone}",
            f"- share of what the slower engine gives alone: **{data['share_of_engines']:.1%}** (bar: 90 %)",
            f"- CPU of client and scheduler (one process): {data['client_and_scheduler_cpu_ms_per_row']:.2f} ms a row",
            f"- its largest memory in each quarter of the job: {quarters_mb} MB",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--step", type=float, default=STEP_S, help="seconds of an engine's step")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows; writes nothing")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = chosen.rows // 10 if chosen.quick else chosen.rows
        made = throughput(rows, Path(folder), chosen.step)
    data = {"environment": environment(), "load_average": list(os.getloadavg()), **made}
    print(json.dumps(data, indent=1))
    if not chosen.quick:
        write("evaluation_throughput", data, table(data))


if __name__ == "__main__":
    main()
