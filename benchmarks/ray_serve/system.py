"""Ray Serve as a system under test, on a real local cluster of two nodes; runs in Ray's own environment.

    RAY_PYTHON -m benchmarks.ray_serve.system --socket SOCKET

See `benchmarks.support.worker_protocol` for what it reads and writes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray import serve as ray_serve
from ray.cluster_utils import Cluster

from benchmarks.ray_serve.app import CARDS, application
from benchmarks.support.trial import SCENARIO, PlannedRun
from benchmarks.support.worker_protocol import reserve_stdout, serve
from dask_fmware.simulation.scenario import load_scenario

STORE_BYTES = 100 * 1024 * 1024


def start_cluster() -> Cluster:
    """Two nodes, each with a card."""
    nodes = [{"num_cpus": 4, "resources": {card: 1, "card": 1}, "object_store_memory": STORE_BYTES} for card in CARDS]
    cluster = Cluster(initialize_head=True, head_node_args={**nodes[0], "include_dashboard": False})
    for node in nodes[1:]:
        cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    return cluster


def laws() -> dict[str, dict[str, dict[str, float]]]:
    """Step-time laws of the scenario, by model and card."""
    models = load_scenario(SCENARIO).models
    return {
        name: {card: hosting.plain.model_dump() for card, hosting in spec.on.items() if hosting.plain is not None}
        for name, spec in models.items()
    }


async def _play(handle: Any, out: int, ready: dict[str, Any]) -> None:
    """Answer; handles are made on the loop that uses them, as the throughput-optimised mode asks for."""
    handles = {name: handle.options(method_name=name, stream=True) for name in ("rag", "shopping")}

    async def start(run: PlannedRun) -> AsyncIterator[str]:
        async for piece in handles[run.workflow].remote(run.prompts, run.pauses_s):
            yield piece

    await serve(out, start, ready)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True, help="of the card server")
    parser.add_argument("--max-ongoing", type=int, help="max_ongoing_requests of the models; Ray's default is 5")
    parser.add_argument("--max-queued", type=int, help="max_queued_requests of the models; Ray's default is no bound")
    parser.add_argument("--prefer-local", choices=("yes", "no"), help="locality of handles; default: Ray's")
    parser.add_argument("--time-scale", type=float, default=1.0, help="seconds for one second of the scenario")
    asked = parser.parse_args()
    out = reserve_stdout()
    began = time.perf_counter()
    cluster = start_cluster()
    ray_serve.start(logging_config={"log_level": "ERROR", "enable_access_log": False})
    made = application(
        laws(),
        asked.socket,
        max_ongoing=asked.max_ongoing,
        max_queued=asked.max_queued,
        prefer_local={"yes": True, "no": False, None: None}[asked.prefer_local],
        time_scale=asked.time_scale,
    )
    handle = ray_serve.run(made, route_prefix=None)
    try:
        asyncio.run(_play(handle, out, {"start_s": time.perf_counter() - began, "ray": ray.__version__}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
