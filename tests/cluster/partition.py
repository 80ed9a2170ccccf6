"""A cluster over two network namespaces whose line is cut and restored: ``unshare --net`` runs it, a test starts that.

The namespaces and all in them end with this process: nothing of the machine's own network is touched.

``python -m tests.cluster.partition brief|long FOLDER``
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import dask_fmware as fm
from dask_fmware.testing import deployment
from tests.cluster.chaos import PATIENCE_S, assert_kept, descendants, leftovers, none_left, until
from tests.cluster.flows import one

NEAR, FAR, PORT = "10.231.0.1", "10.231.0.2", 8786
ADDRESS = f"tcp://{NEAR}:{PORT}"
TCP_S = 12  # without an answer, after which both ends give a connection up: the least that Dask takes
SLOTS, RUNS = 4, 8


class Line:
    """A second namespace, and the line to it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        mine = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != mine, "the second namespace")
        self.far = ["nsenter", "--net", "--target", str(self._holder.pid)]
        for words in (
            "ip link set lo up",
            "ip link add near type veth peer name far",
            f"ip link set far netns {self._holder.pid}",
            f"ip addr add {NEAR}/30 dev near",
            "ip link set near up",
        ):
            subprocess.run(words.split(), check=True)
        for words in ("ip link set lo up", f"ip addr add {FAR}/30 dev far", "ip link set far up"):
            subprocess.run([*self.far, *words.split()], check=True)

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        subprocess.run(["ip", "link", "set", "near", "down"], check=True)

    def restore(self) -> None:
        """All comes through again."""
        subprocess.run(["ip", "link", "set", "near", "up"], check=True)

    def close(self) -> None:
        """End the second namespace."""
        self._holder.kill()
        self._holder.wait()


class World:
    """A scheduler, a light worker and a replica here, another replica there."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.record = folder / "run.jsonl"
        self._file, self._log = folder / "deployment.json", folder / "cluster.log"
        made = deployment("small", on={"card": 2}, token_s=0.05, slots=SLOTS)
        made["router"] = {"record": str(self.record)}
        self._file.write_text(json.dumps(made))
        self._opened = opened
        self.line = Line()
        opened.callback(self.line.close)
        install = ["--fm-deployment", str(self._file)]
        self.scheduler = self.start(
            "dask", "scheduler", "--host", NEAR, "--port", str(PORT), "--no-dashboard",
            "--preload", "dask_fmware_scheduler.preload", *install,
        )  # fmt: skip
        self.worker("light", NEAR)
        self.worker("near", NEAR, "--fm-model", "small", "--fm-accelerator", "card")
        self.far = self.far_replica()

    def far_replica(self) -> subprocess.Popen[bytes]:
        """Start the replica beyond the line."""
        return self.worker("far", FAR, "--fm-model", "small", "--fm-accelerator", "card", prefix=self.line.far)

    def worker(self, name: str, host: str, *labels: str, prefix: tuple[str, ...] | list[str] = ()) -> Any:
        return self.start(
            "dask", "worker", ADDRESS, "--host", host, "--name", name, "--nthreads", "6", "--memory-limit", "0",
            "--no-dashboard", "--preload", "dask_fmware_workers.preload", "--fm-deployment", str(self._file), *labels,
            prefix=prefix,
        )  # fmt: skip

    def start(self, module: str, *words: str, prefix: tuple[str, ...] | list[str] = ()) -> subprocess.Popen[bytes]:
        """Start a process of the cluster, which ends with this one."""
        with open(self._log, "ab") as log:
            process = subprocess.Popen([*prefix, sys.executable, "-m", module, *words], stdout=log, stderr=log)
        self._opened.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    for child in children:
        child.kill()


@contextmanager
def world(folder: Path) -> Iterator[tuple[World, Client]]:
    """Start all; in the end the record keeps the contract and nothing is left of the runs."""
    with ExitStack() as opened:
        made = World(folder, opened)
        try:
            with Client(ADDRESS, timeout=PATIENCE_S, set_as_default=False) as client:
                until(lambda: len(replicas(client)) == 2, "two replicas serve")
                yield made, client
                until(lambda: not client.run_on_scheduler(leftovers), lambda: client.run_on_scheduler(leftovers))
            made.scheduler.send_signal(signal.SIGTERM)
            made.scheduler.wait(PATIENCE_S)
            assert_kept(made.record)
        except BaseException:
            print((folder / "cluster.log").read_text()[-5000:])
            raise


def replicas(client: Client) -> set[str]:
    """Names of those that serve."""
    return {replica["name"] for replica in fm.status(client)["replicas"]}


def tried(client: Client, futures: list[Any]) -> list[list[tuple[str, str]]]:
    """Replica and outcome of each attempt, by run."""
    reports = fm.reports(client, futures)
    return [[(a.replica, a.outcome) for call in report.data.calls for a in call.attempts] for report in reports]


def under_way(client: Client) -> list[Any]:
    """Runs on both replicas."""
    futures = [client.compute(one(f"{n}")) for n in range(RUNS)]
    until(lambda: {place for run in tried(client, futures) for place, _ in run} >= {"near", "far"}, "both are used")
    return futures


def brief(made: World, client: Client) -> None:
    """A cut that is shorter than what connections bear costs time and nothing else."""
    futures = under_way(client)
    made.line.cut()
    time.sleep(1.0)
    made.line.restore()
    assert len(client.gather(futures)) == RUNS
    assert {outcome for run in tried(client, futures) for _, outcome in run} == {"finished"}
    assert replicas(client) == {"near", "far"}


def long(made: World, client: Client) -> None:
    """What was beyond a cut is given up by both sides: calls run here, no engine runs on there, clients are told."""
    words = ["-m", "tests.cluster.doomed", "client", ADDRESS]
    doomed = subprocess.Popen([*made.line.far, sys.executable, *words], stdout=subprocess.PIPE, text=True)
    assert doomed.stdout is not None
    assert doomed.stdout.readline() == "submitted\n"
    processes = [psutil.Process(made.far.pid), *descendants(made.far.pid)]
    futures = under_way(client)
    made.line.cut()
    assert len(client.gather(futures)) == RUNS
    seen = tried(client, futures)
    assert all(run[-1] == ("near", "finished") for run in seen if len(run) > 1), seen
    assert any(run[0] == ("far", "lost") for run in seen), seen
    none_left(processes)
    told = json.loads(doomed.communicate(timeout=PATIENCE_S)[0])
    assert told["error"] == "FutureCancelledError", told
    assert "lost the connection to the scheduler" in told["text"], told
    made.line.restore()
    made.far_replica()
    until(lambda: replicas(client) == {"near", "far"}, "the replica beyond the line serves again")
    for future in under_way(client):
        future.result()


def main() -> None:
    story, folder = sys.argv[1:]
    os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP"] = f"{TCP_S}s"
    with world(Path(folder)) as (made, client):
        {"brief": brief, "long": long}[story](made, client)
    print("done")


if __name__ == "__main__":
    main()
