"""A process that is there to be killed or cut off: a client with runs under way, or a whole cluster.

``python -m tests.cluster.doomed client ADDRESS`` submits runs, says so, waits for them and says how that ended;
``python -m tests.cluster.doomed cluster`` starts workers, prints their process ids, and stays.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from distributed import Client

import dask_fmware as fm
from dask_fmware.testing import deployment
from tests.cluster.chaos import descendants
from tests.cluster.flows import one

RUNS = 3


def client(address: str) -> None:
    """Submit runs and wait for them."""
    with Client(address, timeout=3, set_as_default=False) as made:
        futures = [made.compute(one(f"of a doomed client: {n}")) for n in range(RUNS)]
        said: dict[str, Any] = {}
        print("submitted", flush=True)
        try:
            made.gather(futures)
        except BaseException as error:
            said = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(said), flush=True)


def cluster() -> None:
    """Start workers of which one generates."""
    with fm.LocalModelCluster(deployment("small", token_s=0.5), dashboard_address=None) as made, Client(made) as client:
        fm.wait_ready(client)
        future = client.compute(one("x"))
        while not fm.status(client)["replicas"][0]["running"]:
            time.sleep(0.05)
        print(json.dumps([process.pid for process in descendants(os.getpid())]), flush=True)
        future.result()


if __name__ == "__main__":
    {"client": client, "cluster": cluster}[sys.argv[1]](*sys.argv[2:])
