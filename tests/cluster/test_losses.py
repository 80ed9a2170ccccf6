"""The loss of a scheduler and of the process of a whole cluster: clients are told, and no engine runs on."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.client import ClosedClientError, FutureCancelledError

import dask_fmware as fm
from benchmarks.support.processes import Cluster
from dask_fmware.errors import RuntimeFaultError, StreamLostError
from dask_fmware.testing import deployment
from tests.cluster.chaos import PATIENCE_S, assert_kept, descendants, doomed, none_left, until
from tests.cluster.flows import one

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROWS = 60


def test_no_worker_outlives_the_process_of_its_cluster() -> None:
    with doomed("cluster") as (process, said):
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
