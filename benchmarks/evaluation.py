"""Batch evaluation: throughput against the engines alone, and a job whose processes are killed again and again.

    python -m benchmarks.evaluation throughput
    python -m benchmarks.evaluation kills

Both run the RAG workflow of the demo, whose retrieval is real, on emulated engines that saturate at 100 calls a
second for each of its two models. `kills` starts scheduler and workers as processes of their own, kills client, a
worker and the scheduler at random moments, each `--times` times, starts again what a user would, and compares the
output with the data.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import dask_fmware as fm
from benchmarks.environment import environment
from dask_fmware.demo.inputs import QUESTIONS
from dask_fmware.demo.rag import rag
from dask_fmware.evaluation.output import read_output
from dask_fmware.model.engine import Request
from dask_fmware_workers.engines.emulated import EmulatedEngine

RESULTS = Path(__file__).parent / "results"
STEP_S = 0.01  # of an engine; a call takes its output tokens times that
SLOTS = {"small": 16, "large": 48}  # the output tokens of its calls, so that a call ends every 10 ms
PATIENCE_S = 120.0


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


# -- throughput --------------------------------------------------------------------------------------


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


# -- kills -------------------------------------------------------------------------------------------


class Cluster:
    """A scheduler and workers as processes, started as a platform engineer would."""

    def __init__(self, out: Path, step_s: float) -> None:
        self._out = out
        (out / "deployment.json").write_text(json.dumps(deployment(step_s)))
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._log = open(out / "cluster.log", "ab")  # noqa: SIM115
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        try:
            self._start()
        except OSError:
            print((self._out / "cluster.log").read_text()[-3000:], file=sys.stderr)
            raise

    def _start(self) -> None:
        file = str(self._out / "deployment.json")
        self.scheduler = self._dask(
            "scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard",
            "--preload", "dask_fmware_scheduler.preload", "--fm-deployment", file,
        )  # fmt: skip
        common = [self.address, "--no-dashboard", "--preload", "dask_fmware_workers.preload", "--fm-deployment", file]
        self.workers = [self._dask("worker", *common, "--nthreads", "4")]
        for model, slots in SLOTS.items():
            labels = ["--fm-model", model, "--fm-accelerator", "card"]
            threads = ["--nthreads", str(slots + 2), "--memory-limit", "0"]
            self.workers.append(self._dask("worker", *common[:2], *threads, *common[2:], *labels))
        with Client(self.address, timeout=PATIENCE_S, set_as_default=False) as client:
            fm.wait_ready(client, timeout_s=PATIENCE_S)

    def _dask(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "dask", *words], stdout=self._log, stderr=self._log)

    def kill_worker(self, draw: random.Random) -> str:
        """Kill the process under a nanny, as the kernel would for memory."""
        nanny = draw.choice(self.workers)
        children = [
            c for c in psutil.Process(nanny.pid).children(recursive=True) if "spawn_main" in " ".join(c.cmdline())
        ]
        for child in children:
            child.kill()
        return f"worker {self.workers.index(nanny)}"

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.stop()

    def stop(self) -> None:
        started = [p for p in (self.scheduler, *self.workers) if p is not None]
        children = [c for p in started if p.poll() is None for c in psutil.Process(p.pid).children(recursive=True)]
        for process in started:
            process.kill()
            process.wait()
        for child in children:
            if child.is_running():
                child.kill()


def free_port() -> int:
    """A port that no outgoing connection is given, or a client that looks for a lost scheduler may take it itself."""
    for port in range(20_000, 30_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit("no port is free")


def kills(rows: int, out: Path, times: int, seed: int, step_s: float) -> dict[str, Any]:
    draw = random.Random(seed)
    write_questions(out / "questions.csv", rows)
    todo = ["client", "worker", "scheduler"] * times
    draw.shuffle(todo)
    moments = sorted(draw.uniform(0.05, 0.9) for _ in todo)  # share of the rows that are recorded
    cluster, story, memory, sessions = Cluster(out, step_s), [], [], 0
    started = time.monotonic()
    cluster.start()
    try:
        while True:
            sessions += 1
            with evaluating(out, cluster.address) as client:
                rss: list[int] = []
                victim = None
                while client.poll() is None and victim is None:
                    time.sleep(0.25)
                    rss.append(resident(client.pid))
                    if todo and recorded(out / "answers.parquet") >= moments[0] * rows:
                        victim, share = todo.pop(0), moments.pop(0)
                        if victim == "worker":
                            story.append([round(share, 3), cluster.kill_worker(draw)])
                            victim = None
                memory.append(quarters(rss) if len(rss) > 20 else None)
                if victim == "client":
                    client.kill()
                elif victim == "scheduler":
                    cluster.kill_scheduler()
                if victim is not None:
                    story.append([round(share, 3), victim])
                code = client.wait(PATIENCE_S)
            print(f"session {sessions}: exit {code} after {victim or 'nothing'}", flush=True)
            if victim == "scheduler":
                said = (out / "client.log").read_text().strip().splitlines()[-1]
                story[-1].append(said)
                cluster.start()
            elif victim is None:
                if code != 0:
                    raise SystemExit((out / "client.log").read_text()[-3000:])
                break
    finally:
        cluster.stop()
    return {
        "rows": rows,
        "sessions": sessions,
        "kills": story,
        "seconds": time.monotonic() - started,
        "client_rss_mb_by_session": memory,
        **checked(out, rows),
    }


@contextmanager
def evaluating(out: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command that a user runs."""
    path = out / "client.log"
    words = ["evaluate", "dask_fmware.demo.rag:rag", str(out / "questions.csv"), "-o", str(out / "answers.parquet")]
    words += ["--address", address, "--id", "number", "--keep", "question", "--json"]
    with open(path, "wb") as log:
        client = subprocess.Popen([sys.executable, "-m", "dask", "fmware", *words], stdout=log, stderr=log)
        try:
            yield client
        finally:
            if client.poll() is None:
                client.kill()
                client.wait()


def recorded(folder: Path) -> int:
    """Rows on the disk."""
    from pyarrow import parquet

    try:
        sealed = sum(parquet.ParquetFile(path).metadata.num_rows for path in folder.glob("part-*.parquet"))
        return sealed + sum(path.read_bytes().count(b"\n") for path in folder.glob("_journal-*"))
    except OSError:
        return 0


def resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def checked(out: Path, rows: int) -> dict[str, Any]:
    """Compare the output with the data, row by row."""
    table = read_output(out / "answers.parquet").sort_by("row").to_pylist()
    with open(out / "questions.csv", newline="") as file:
        data = list(csv.DictReader(file))
    return {
        "rows_in_output": len(table),
        "every_row_exactly_once": [row["row"] for row in table] == list(range(rows)),
        "every_row_is_its_own": all(
            (row["id"], row["input.question"]) == (wanted["number"], wanted["question"])
            for row, wanted in zip(table, data, strict=False)
        ),
        "rows_without_answer": sum(not row["answer"] for row in table),
        "errors": sum(row["error"] is not None for row in table),
        "rows_with_more_than_two_attempts": sum(row["attempts"] > 2 for row in table),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["throughput", "kills"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--times", type=int, default=3, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--step", type=float, default=STEP_S, help="seconds of an engine's step")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows; writes nothing")
    chosen = parser.parse_args()
    rows = chosen.rows or (10_000 if chosen.part == "throughput" else 20_000)
    rows = rows // 10 if chosen.quick else rows
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "throughput": lambda out: throughput(rows, out, chosen.step),
        "kills": lambda out: kills(rows, out, chosen.times, chosen.seed, chosen.step),
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        made = {
            "command": f"python -m benchmarks.evaluation {' '.join(sys.argv[1:])}",
            "environment": environment(),
            "load_average": list(os.getloadavg()),
            **parts[chosen.part](Path(folder)),
        }
    print(json.dumps(made, indent=1))
    if not chosen.quick:
        (RESULTS / f"evaluation_{chosen.part}.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
