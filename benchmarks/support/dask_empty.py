"""Empty calls through dask-fmware: one line of JSON; see `benchmarks.ray_overhead`.

Scheduler and caller are processes of their own, as on a cluster, and as Ray's controllers and its driver are.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask
import psutil
from distributed import Client

import dask_fmware as fm
from benchmarks.support.closed_loop import measure, memory_mb
from benchmarks.support.empty_calls import DEPLOYMENT, chain, single

SERVE = "serve"


async def serve(modules: Sequence[str]) -> None:
    """Be a cluster, whose processes import some modules, until standard input ends; prints its address first.

    Garbage is collected a third as often, as in a process that ``dask scheduler`` starts.
    """
    gc.set_threshold(*(3 * most for most in gc.get_threshold()))
    for module in modules:
        importlib.import_module(module)
    with dask.config.set({"distributed.worker.preload": ["benchmarks.support.null_engine", *modules]}):
        cluster = await fm.LocalModelCluster(DEPLOYMENT, dashboard_address=None, asynchronous=True)
    print(cluster.scheduler_address, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await cluster.close()


@contextmanager
def served(*modules: str) -> Iterator[tuple[psutil.Process, str]]:
    """A cluster in a process of its own, whose processes import some modules: its process, and its address."""
    command = [sys.executable, "-m", __spec__.name, SERVE, *modules]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield psutil.Process(process.pid), process.stdout.readline().strip()


def _kind(dask_worker: Any) -> tuple[int, bool]:
    """Process of a worker, and whether it has a model."""
    return os.getpid(), bool(dask_worker.state.total_resources)


async def call(cluster: psutil.Process, address: str, began: float, repeats: int, seconds: float) -> dict[str, Any]:
    """Measure calls to a cluster, and the memory of its processes."""
    async with Client(address, asynchronous=True, set_as_default=False) as client:
        await fm.wait_ready(client)
        start_s = time.perf_counter() - began
        session = fm.Session(client)

        async def run(workflow: Any) -> None:
            await session.run(workflow(x="x"))

        found = await measure(lambda: run(single), lambda: run(chain), repeats, seconds)
        workers = await client.run(_kind)
    models = {pid for pid, has_model in workers.values() if has_model}
    light = {pid for pid, has_model in workers.values() if not has_model}
    memory = {process.pid: memory_mb([process]) for process in [cluster, *cluster.children(recursive=True)]}
    others = sum(sum(one.values()) for pid, one in memory.items() if pid not in models)
    control = {
        "control plane MB": others - sum(sum(memory[pid].values()) for pid in light),
        "with workflow code MB": others,
        "processes": {name: size for one in memory.values() for name, size in one.items()},
    }
    return {"start s": start_s, **found, **control}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("what", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.what and asked.what[0] == SERVE:
        asyncio.run(serve(asked.what[1:]))
        return
    began = time.perf_counter()
    with served() as (cluster, address):
        print(json.dumps(asyncio.run(call(cluster, address, began, asked.repeats, asked.seconds))))


if __name__ == "__main__":
    main()
