"""A scheduler and workers as processes of their own, started as a platform engineer would, and what they take."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import dask_fmware as fm

__all__ = ["PATIENCE_S", "Cluster", "resident"]

PATIENCE_S = 120.0


class Cluster:
    """A scheduler, a light worker and a worker for each model, on one address whatever happens to them.

    Parameters
    ----------
    out
        Folder for the deployment and the logs.
    deployment
        One replica of each model, on the accelerator ``card``.
    slots
        Of each model.
    preload
        A module that workers import first, with an engine of its own.
    """

    def __init__(
        self, out: Path, deployment: Mapping[str, Any], slots: Mapping[str, int], preload: str | None = None
    ) -> None:
        self._out = out
        self._slots = dict(slots)
        self._preload = ["--preload", preload] if preload is not None else []
        (out / "deployment.json").write_text(json.dumps(deployment))
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start all, and return when the replicas are ready."""
        try:
            self._start()
        except OSError:
            print((self._out / "cluster.log").read_text()[-3000:], file=sys.stderr)
            raise

    def _start(self) -> None:
        file = str(self._out / "deployment.json")
        self.scheduler = self._dask(
            "scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard",
            "--preload", "dask_fmware_scheduler.preload", "--fm-deployment", file,
        )  # fmt: skip
        preloads = [*self._preload, "--preload", "dask_fmware_workers.preload", "--fm-deployment", file]
        common = [self.address, "--no-dashboard", *preloads]
        self.workers = [self._dask("worker", *common, "--nthreads", "4")]
        for model, slots in self._slots.items():
            labels = ["--fm-model", model, "--fm-accelerator", "card"]
            threads = ["--nthreads", str(slots + 2), "--memory-limit", "0"]
            self.workers.append(self._dask("worker", *common[:2], *threads, *common[2:], *labels))
        with Client(self.address, timeout=PATIENCE_S, set_as_default=False) as client:
            fm.wait_ready(client, timeout_s=PATIENCE_S)

    def _dask(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self._out / "cluster.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", "dask", *words], stdout=log, stderr=log)

    def memory(self) -> dict[str, int]:
        """Resident bytes of the scheduler and of each worker under its nanny."""
        assert self.scheduler is not None
        made = {"scheduler": resident(self.scheduler.pid)}
        for name, nanny in zip(("light worker", *self._slots), self.workers, strict=True):
            made[name] = sum(resident(child.pid) for child in workers_of(nanny))
        return made

    def kill_worker(self, draw: random.Random) -> str:
        """Kill the process under a nanny, as the kernel would for memory; the nanny starts another."""
        number = draw.randrange(len(self.workers))
        for child in workers_of(self.workers[number]):
            child.kill()
        return f"{('light', *self._slots)[number]} worker"

    def kill_scheduler(self) -> None:
        """Kill it; its workers would look for it for minutes, so they are ended as an operator would."""
        assert self.scheduler is not None
        self.scheduler.kill()
        self.stop()

    def stop(self) -> None:
        """Kill all that runs."""
        started = [p for p in (self.scheduler, *self.workers) if p is not None]
        children = [c for p in started if p.poll() is None for c in psutil.Process(p.pid).children(recursive=True)]
        for process in started:
            process.kill()
            process.wait()
        for child in children:
            if child.is_running():
                child.kill()


def workers_of(nanny: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker under a nanny; none while it is started anew."""
    try:
        return [
            child
            for child in psutil.Process(nanny.pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
    except psutil.NoSuchProcess:
        return []


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 if it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def free_port() -> int:
    """A port that no outgoing connection is given, or a client that looks for a lost scheduler may take it itself."""
    for port in range(20_000, 30_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SystemExit("no port is free")
