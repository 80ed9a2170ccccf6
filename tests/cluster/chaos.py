"""What tests on real processes share: clusters that are held to their contract, and whoever dies in them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import dask_fmware as fm
from dask_fmware.runtime.contract import check_log
from dask_fmware.simulation.replay import open_log
from dask_fmware.testing.leaks import scheduler_leaks

__all__ = [
    "PATIENCE_S",
    "assert_kept",
    "command",
    "descendants",
    "doomed",
    "kept",
    "leftovers",
    "none_left",
    "pids",
    "until",
]

PATIENCE_S = 120.0


def until(condition: Callable[[], Any], what: str | Callable[[], Any] = "it has not come") -> None:
    """Wait for what nothing announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else str(what())
        time.sleep(0.05)


@contextmanager
def kept(
    made: Mapping[str, Any], folder: Path, *, dashboard_address: str | None = None
) -> Iterator[tuple[fm.LocalModelCluster, Client]]:
    """A cluster in processes whose record keeps the contract, and of which no process is left."""
    record, others = folder / "run.jsonl", descendants(os.getpid())
    recorded = {**made, "router": {**made.get("router", {}), "record": str(record)}}
    with fm.LocalModelCluster(recorded, dashboard_address=dashboard_address) as cluster:
        with Client(cluster, set_as_default=False) as client:
            yield cluster, client
        processes = [one for one in descendants(os.getpid()) if one not in others]
    assert_kept(record)
    none_left(processes)


@contextmanager
def doomed(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of `tests.cluster.doomed` that has said a line and stays until it is killed; and the line."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.doomed", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def assert_kept(record: Path) -> None:
    """Hold a record of events against the contract."""
    with open_log(record) as (head, lines):
        contract = check_log(head, lines, is_over=False)
    assert [str(breach) for breach in contract.breaches] == []
    assert contract.counts["events"] > 0


def descendants(pid: int) -> list[psutil.Process]:
    """Processes that a process has started, and those that they have; Python's own helpers apart."""
    return [one for one in psutil.Process(pid).children(recursive=True) if "resource_tracker" not in command(one)]


def command(process: psutil.Process) -> str:
    """Command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def none_left(processes: list[psutil.Process]) -> None:
    """Processes end by themselves."""
    until(lambda: not any(map(command, processes)), lambda: f"still there: {[*filter(None, map(command, processes))]}")


def leftovers(dask_scheduler: Any) -> list[str]:
    """What is left of runs, on the scheduler."""
    return list(scheduler_leaks(dask_scheduler))


def pids(client: Client) -> dict[str, int]:
    """Process of each worker that answers, by name."""
    found = client.run(os.getpid, on_error="ignore")
    return {
        info["name"]: found[address]
        for address, info in client.scheduler_info(-1)["workers"].items()
        if address in found
    }
