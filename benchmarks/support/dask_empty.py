"""Empty calls through dask-fmware: one line of JSON; see `benchmarks.ray_overhead`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any

import dask
import psutil
from distributed import Client

import dask_fmware as fm
from benchmarks.support.closed_loop import measure, memory_mb
from benchmarks.support.empty_calls import DEPLOYMENT, chain, single


def _kind(dask_worker: Any) -> tuple[int, bool]:
    """Process of a worker, and whether it has a model."""
    return os.getpid(), bool(dask_worker.state.total_resources)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    began = time.perf_counter()
    with dask.config.set({"distributed.worker.preload": ["benchmarks.support.null_engine"]}):
        cluster = await fm.LocalModelCluster(DEPLOYMENT, dashboard_address=None, asynchronous=True)
    client = await Client(cluster, asynchronous=True, set_as_default=False)
    await fm.wait_ready(client)
    start_s = time.perf_counter() - began

    session = fm.Session(client)

    async def run(workflow: Any) -> None:
        await session.run(workflow(x="x"))

    found = await measure(lambda: run(single), lambda: run(chain), asked.repeats, asked.seconds)
    workers = await client.run(_kind)
    models = {pid for pid, has_model in workers.values() if has_model}
    light = {pid for pid, has_model in workers.values() if not has_model}
    mine = psutil.Process()
    memory = {process.pid: memory_mb([process]) for process in [mine, *mine.children(recursive=True)]}
    others = sum(sum(one.values()) for pid, one in memory.items() if pid not in models)
    control = {
        "control plane MB": others - sum(sum(memory[pid].values()) for pid in light),
        "with workflow code MB": others,
        "processes": {name: size for one in memory.values() for name, size in one.items()},
    }
    await client.close()
    await cluster.close()
    print(json.dumps({"start s": start_s, **found, **control}))


if __name__ == "__main__":
    asyncio.run(main())
