"""Empty calls through Ray Serve: one line of JSON; see `benchmarks.ray_overhead`. Runs in Ray's environment."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import uuid
from contextlib import aclosing
from typing import Any

import psutil
import ray
from ray import serve

from benchmarks.ray_serve.system import start_cluster
from benchmarks.support.closed_loop import measure, memory_mb
from benchmarks.support.null_engine import NullEngine
from benchmarks.support.worker_protocol import answer_on, reserve_stdout
from dask_fmware.model.engine import Request

SLOTS = 256


@serve.deployment(
    num_replicas=2,
    max_replicas_per_node=1,
    max_ongoing_requests=SLOTS,
    ray_actor_options={"num_cpus": 0, "resources": {"card": 0.01}},
)
class Empty:
    """A model whose engine answers at once."""

    def __init__(self) -> None:
        self.engine = NullEngine(slots=SLOTS, context_tokens=2048)

    async def complete(self, prompt: str) -> str:
        """Answer as a whole."""
        async with aclosing(self.engine.generate(Request(uuid.uuid4().hex, 1, prompt))) as deltas:
            return "".join([delta.text async for delta in deltas])


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Chain:
    """Three calls, each on the result of the one before."""

    def __init__(self, model: Any) -> None:
        self.model = model.options(method_name="complete")

    async def run(self, prompt: str) -> str:
        """Compose."""
        return await self.model.remote(await self.model.remote(await self.model.remote(prompt)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    out = reserve_stdout()
    began = time.perf_counter()
    cluster = start_cluster()
    serve.start(
        http_options={"location": "NoServer"}, logging_config={"log_level": "ERROR", "enable_access_log": False}
    )
    composed = serve.run(Chain.bind(Empty.bind()), route_prefix=None)
    model = serve.get_deployment_handle("Empty", "default")
    start_s = time.perf_counter() - began

    async def work() -> dict[str, float]:
        single, chain = model.options(method_name="complete"), composed.options(method_name="run")

        async def one() -> None:
            await single.remote("x")

        async def three() -> None:
            await chain.remote("x")

        return await measure(one, three, asked.repeats, asked.seconds)

    try:
        found = asyncio.run(work())
        started = [process for process in psutil.process_iter() if process.pid != os.getpid() and _is_ours(process)]
        memory = memory_mb(started)
        models = [name for name in memory if ":Empty" in name]
        ingress = [name for name in memory if ":Chain" in name]
        others = sum(memory.values()) - sum(memory[name] for name in models)
        control = {
            "control plane MB": others - sum(memory[name] for name in ingress),
            "with workflow code MB": others,
            "processes": memory,
        }
        answer_on(out, {"start s": start_s, **found, **control, "ray": ray.__version__})
    finally:
        ray.shutdown()
        cluster.shutdown()


def _is_ours(process: psutil.Process) -> bool:
    """Whether a process belongs to the session that this program leads."""
    try:
        return os.getsid(process.pid) == os.getsid(0) or any(p.pid == os.getpid() for p in process.parents())
    except (psutil.Error, ProcessLookupError):
        return False


if __name__ == "__main__":
    main()
