"""The loss of a scheduler, of a client, and of the process that is both: clients are told, and no engine runs on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.client import ClosedClientError, FutureCancelledError

import dask_fmware as fm
from benchmarks.support.processes import Cluster
from dask_fmware.compile.steps import HOST
from dask_fmware.errors import RuntimeFaultError, StreamLostError
from dask_fmware.testing import deployment
from tests.cluster.chaos import PATIENCE_S, assert_kept, descendants, kept, leftovers, none_left, until
from tests.cluster.flows import one

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROWS = 60


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test, which are ended with it."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


def doomed(started: list[subprocess.Popen[str]], *words: str) -> tuple[subprocess.Popen[str], str]:
    """Start a process that says a line and stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.doomed", *words], stdout=subprocess.PIPE, text=True
    )
    started.append(process)
    assert process.stdout is not None
    return process, process.stdout.readline()


def requests(dask_worker: Any) -> int:
    """What the engine of a worker works on (runs on the worker)."""
    loaded = dask_worker.plugins[HOST].loaded
    return sum((loaded.engine.state().running, loaded.engine.state().waiting)) if loaded is not None else 0


def test_runs_of_a_killed_client_are_released_and_their_engine_stops(tmp_path: Path, started: Any) -> None:
    with kept(deployment("small", token_s=10.0), tmp_path) as (cluster, client):  # its answers take ten minutes
        fm.wait_ready(client)
        process, _ = doomed(started, "client", cluster.scheduler_address)
        until(lambda: sum(client.run(requests).values()) == 3, "its calls run")
        process.send_signal(signal.SIGKILL)
        until(lambda: not client.run_on_scheduler(leftovers), lambda: client.run_on_scheduler(leftovers))
        until(lambda: not sum(client.run(requests).values()), "its engine stops")


def test_no_worker_outlives_the_process_of_its_cluster(started: Any) -> None:
    process, said = doomed(started, "cluster")
    workers = [psutil.Process(pid) for pid in json.loads(said)]
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    none_left(workers)


@pytest.mark.slow
def test_a_killed_scheduler_is_told_to_clients_leaves_no_engine_and_a_job_goes_on_with_the_next(tmp_path: Path) -> None:
    made = deployment("small", on={"card": 1}, token_s=0.005, rules=[{"when": "long", "token_s": 0.5}])
    made["router"] = {"record": str(tmp_path / "run.jsonl")}
    cluster = Cluster(tmp_path, made, {"small": 4})
    cluster.start()
    try:
        assert cluster.scheduler is not None
        workers = [one for nanny in cluster.workers for one in descendants(nanny.pid)]
        workers += [psutil.Process(nanny.pid) for nanny in cluster.workers]
        client = Client(cluster.address, timeout=3, set_as_default=False)
        future, shown = client.compute(one("long")), [""]
        lost: list[BaseException] = []
        done: list[int] = []

        def read() -> None:
            for chunk in fm.stream(future):
                shown[0] += chunk.text

        def until_lost(work: Callable[[], Any]) -> None:
            try:
                work()
            except Exception as error:
                lost.append(error)

        works = (read, lambda: evaluate(client, tmp_path, done))
        threads = [threading.Thread(target=until_lost, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        until(lambda: shown[0] and done and done[-1] > 0, "a stream and a job are under way")
        cluster.scheduler.send_signal(signal.SIGKILL)
        with pytest.raises(FutureCancelledError, match="lost the connection to the scheduler"):
            future.result(timeout=PATIENCE_S)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert {type(error) for error in lost} == {StreamLostError, RuntimeFaultError}
        assert any("all recorded rows are safe" in str(error) for error in lost)
        until(lambda: client.status == "closed", "the client has looked for it as long as its timeout says")
        with pytest.raises(ClosedClientError):
            client.compute(one("more"))
        none_left(workers)
        assert_kept(tmp_path / "run.jsonl")
        cluster.stop()
        cluster.start()
        with Client(cluster.address, set_as_default=False) as client:
            assert evaluate(client, tmp_path, done) == list(range(ROWS))
    finally:
        cluster.stop()


def evaluate(client: Client, folder: Path, done: list[int]) -> list[int]:
    """Run a job; return the numbers of the rows in its output."""
    data = [{"prompt": f"row {n}"} for n in range(ROWS)]
    output = fm.evaluate(one, data, output=folder / "rows", client=client, progress=lambda told: done.append(told.done))
    return list(output.to_pandas()["row"])
