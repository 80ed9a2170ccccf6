"""`fm.provision` on a real batch system: Slurm's own daemons and dask-jobqueue, on one machine.

Left out where Slurm does not run or dask-jobqueue is not installed; `docs/slurm.md` says how to run it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, wait

import dask_fmware as fm
from dask_fmware.testing import deployment

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

dask_jobqueue = pytest.importorskip("dask_jobqueue")
m = fm.Model("m")
PATIENCE_S = 240.0


def jobs() -> list[str]:
    """Names of the jobs that run."""
    found = subprocess.run(["squeue", "--noheader", "--states=RUNNING", "--format=%j"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"Slurm does not answer: {found.stderr.strip()}")
    return found.stdout.split()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    if shutil.which("sbatch") is None:
        pytest.skip("Slurm is not installed")
    before = jobs()
    with dask_jobqueue.SLURMCluster(
        cores=2, memory="1GB", processes=1, walltime="00:20:00", interface="lo", python=sys.executable,
        log_directory=str(tmp_path), local_directory=str(tmp_path), job_name="fmware",
    ) as made:  # fmt: skip
        made.scale(1)  # a light worker
        yield made
    until(lambda: jobs() == before, "no job is left")


@fm.workflow(slo=fm.SLO(ttft_s=30))
def ask(question: str) -> Any:
    return m("{question}", question=question, max_tokens=8)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def document() -> dict[str, Any]:
    made = deployment("m", token_s=0.02, load_s=0.5)
    made["accelerators"]["cpu"]["cards"] = 3
    made["models"]["m"]["on"]["cpu"]["replicas"] = 0
    made.pop("light_workers", None)
    return made


def test_replicas_start_and_stop_as_jobs_and_no_run_is_lost(cluster: Any) -> None:
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout=PATIENCE_S)
        fm.install(client, document())
        first = client.compute(ask(question="anyone?"))  # held: there is no replica yet
        provisioner = fm.provision(
            cluster, fm.Provisioning(mode="manual", interval_s=0.5, cool_down_s=0), deployment=document()
        )
        until(lambda: fm.status(client)["provisioning"] is not None, "it decides")
        fm.scale(client, {"m": {"cpu": 2}})

        def ready() -> int:
            return sum(kind["ready"] for kind in fm.status(client)["provisioning"]["replicas"])

        until(lambda: ready() == 2, "two replicas serve")
        assert first.result(timeout=PATIENCE_S).text
        assert len(jobs()) == 3
        futures = [client.compute(ask(question=f"q{i}")) for i in range(40)]
        fm.scale(client, {"m": {"cpu": 1}})
        wait(futures, timeout=PATIENCE_S)
        reports = [fm.report(future).data for future in futures]
        assert [report.state for report in reports] == ["finished"] * 40
        assert all(len(call.attempts) == 1 for report in reports for call in report.calls)
        until(lambda: ready() == 1 and len(jobs()) == 2, "one job has ended")
        job = next(iter(cluster.workers[name] for name in cluster.workers if str(name).startswith("m-cpu"))).job_id
        subprocess.run(["scancel", str(job)], check=True)
        until(lambda: len(jobs()) == 1, "its job is gone")
        until(lambda: ready() == 1 and len(jobs()) == 2, "another takes its place")
        assert client.compute(ask(question="again")).result(timeout=PATIENCE_S).text
        fm.scale(client, {"m": {"cpu": 0}})
        until(lambda: ready() == 0 and len(jobs()) == 1, "no replica is left")
        assert provisioner.error is None
