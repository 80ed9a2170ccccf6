"""vLLM's server as a child process: its command, its key, its log, its metrics and its end.

It listens on a port of the loopback address with a key that only its environment holds. A guard ends it when the worker
is gone (see `guard`). What is asked of it, and when, it does not know.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware.model.engine import EngineState
from dask_fmware_workers.engines.vllm_watch import OWNER

__all__ = ["HOST", "VllmServer"]

HOST = "127.0.0.1"
POLL_S, SCRAPE_S, STOP_S = 0.2, 0.5, 3.0
TAIL_BYTES = 2000  # of its log, in the error of a server that did not come up
COMMAND = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")  # `vllm serve` itself fails on CPU builds
HOPELESS = (
    "ValidationError",
    "error: argument",
    "error: unrecognized arguments",
)  # of its configuration, not of memory
METRIC = re.compile(r"^vllm:(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


class VllmServer:
    """One server, from its start to its end.

    Parameters
    ----------
    model
        Whose server it is, for errors.
    words
        Its command line, without the port.
    cores
        Cores that it may use (Linux), None for any.

    Attributes
    ----------
    told
        What its metrics said last.
    """

    def __init__(self, model: str, words: Sequence[str], cores: Sequence[int] | None) -> None:
        self._model, self._words, self._cores = model, words, cores
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._directory: Path | None = None
        self._reading: asyncio.Task[None] | None = None
        self.told = EngineState()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self._port}"

    @property
    def key_file(self) -> Path:
        """A file that holds its key, in a directory of this user alone."""
        assert self._directory is not None
        return self._directory / "key"

    @property
    def process_id(self) -> int | None:
        """Of the guard, whose child the server is; None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def exit_status(self) -> int | None:
        """Of a server that has ended; None while it runs, and before."""
        return self._process.returncode if self._process is not None else None

    async def start(self, port: int) -> None:
        """Start it on a port, 0 for any that is free, without waiting until it answers.

        Raises
        ------
        EngineLoadError
            If the port is taken.
        """
        self._port = _free_port(port)
        self._directory = Path(tempfile.mkdtemp(prefix="fmware-"))
        key = secrets.token_urlsafe(24)
        self.key_file.write_text(key)
        with (self._directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dask_fmware_workers.engines.guard", str(os.getpid())),
                *(() if self._cores is None else ("taskset", "-c", ",".join(map(str, self._cores)))),
                *COMMAND,
                *self._words,
                *("--host", HOST, "--port", str(self._port)),
                stdout=log,
                stderr=log,
                env=_environment(key),
            )

    async def until_it_serves(self, timeout_s: float) -> None:
        """Wait until it says that it is healthy.

        That a connection is taken says nothing: whoever asks often enough for a port that nobody listens on is one day
        given that very port to ask from, and is connected to itself.

        Raises
        ------
        DeploymentError
            If it refuses its configuration.
        EngineLoadError
            If it ends or takes longer; with the end of its log.
        """
        assert self._directory is not None
        log = self._directory / "log"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if self.exit_status is not None:
                said = _tail(log)
                kind = DeploymentError if any(word in said for word in HOPELESS) else EngineLoadError
                raise kind(
                    f"vllm-serve: the server of '{self._model}' ended with status {self.exit_status} before it served; "
                    f"the end of its log: {_shown(said)}"
                )
            if loop.time() > deadline:
                raise EngineLoadError(
                    f"vllm-serve: '{self._model}' was not ready within load_timeout_s={timeout_s:g}; the end of its "
                    f"log: {_shown(_tail(log))}"
                )
            if await self._is_healthy():
                return
            await asyncio.sleep(POLL_S)

    async def _is_healthy(self) -> bool:
        try:
            status, _ = await asyncio.to_thread(_get, self._port, "/health")
        except (OSError, HTTPException):
            return False
        return status == 200

    def watch(self) -> None:
        """Read what it counts, for as long as it serves."""
        self._reading = asyncio.create_task(self._read_metrics(), name=f"metrics {self._model}")

    async def _read_metrics(self) -> None:
        while True:
            try:
                _, text = await asyncio.to_thread(_get, self._port, "/metrics")
                self.told = _state_of(text)
            except (OSError, HTTPException, ValueError):
                pass  # it ends amid an answer, or has no time: the last state stands
            await asyncio.sleep(SCRAPE_S)

    async def end(self) -> None:
        """End it and leave nothing of it; idempotent."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()  # the server looks after the owner itself: see vllm_watch
                await process.wait()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        self.told = EngineState()


def _environment(key: str) -> Mapping[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)  # as this worker found its packages
    return {**os.environ, "VLLM_API_KEY": key, OWNER: str(os.getpid()), "PYTHONPATH": paths}


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            raise EngineLoadError(
                f"vllm-serve: port {wanted} on {HOST} is in use; choose another, or 0 for any that is free"
            ) from error
        return int(probe.getsockname()[1])


def _get(port: int, path: str) -> tuple[int, str]:
    """Ask it, whatever proxies the environment names: status and text."""
    with closing(HTTPConnection(HOST, port, timeout=5)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def _state_of(metrics: str) -> EngineState:
    """Read vLLM's metrics in the format of Prometheus.

    >>> _state_of('vllm:kv_cache_usage_perc{engine="0"} 0.25').kv_used
    0.25
    """
    sums: dict[str, float] = {}
    for name, value in METRIC.findall(metrics):
        sums[name] = sums.get(name, 0.0) + float(value)
    return EngineState(
        running=int(sums.get("num_requests_running", 0)),
        waiting=int(sums.get("num_requests_waiting", 0)),
        kv_used=sums.get("kv_cache_usage_perc"),
        prefix_queried_tokens=_whole(sums.get("prefix_cache_queries_total")),
        prefix_hit_tokens=_whole(sums.get("prefix_cache_hits_total")),
        preemptions=_whole(sums.get("num_preemptions_total")),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _tail(log: Path) -> str:
    """Return the end of a log, without the key, whatever the server has written."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").replace((log.parent / "key").read_text(), "***")


def _shown(log: str) -> str:
    return " | ".join(line for line in log.splitlines()[-8:] if line.strip())
