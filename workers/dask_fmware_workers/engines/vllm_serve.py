"""vLLM's own server as a child of a model-hosting worker, which starts it, watches it and speaks to it by HTTP.

Why choose it
    vLLM in processes of its own, also in a worker that may have no children (Dask's default): the server is a
    command, not a part of the worker. A server that dies takes no worker along.

Inputs
    As of the ``vllm`` engine; other options of ``vllm serve`` as a list of words.

What it does
    It starts the server on a port of the loopback address, with a key that only its environment holds, waits until
    it is ready, and then is an ``openai`` engine of dialect ``vllm``. The load of the server, its cache and its
    preemptions are read from its metrics. Its end, at any time, is the end of the engine: calls run elsewhere and the
    worker starts it again. A guard ends it when the worker is gone (see `guard`).

Configuration
    See `VllmServeEngine`.

Trade-offs
    A hop over HTTP for each piece of text, and two interpreters more. Other users of the machine see the port, and
    are refused without the key.
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
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineError, EngineLoadError
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request
from dask_fmware_workers.engines.model_path import check_cards, check_model
from dask_fmware_workers.engines.openai_server import OpenAIEngine
from dask_fmware_workers.engines.vllm_watch import OWNER

__all__ = ["VllmServeEngine"]

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


class VllmServeEngine:
    """One model on a vLLM server that is this worker's child.

    Parameters
    ----------
    model
        Directory or name of the model.
    port
        Where the server listens; 0 for any free port.
    slots
        Requests that are sent at once.
    context_tokens
        Prompt plus output of one request.
    dtype
        Of weights and activations, ``"auto"`` for the model's own.
    kv_cache_memory_bytes
        Size of the KV cache; None leaves it to vLLM.
    tensor_parallel
        Cards that share each layer.
    options
        Other words of its command line, such as ``["--enforce-eager", "--block-size", "32"]``.
    load_timeout_s
        Seconds until it must be ready.
    seed
        Of the seeds of requests that bring none.
    cores
        Cores that the server may use (Linux).

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds.
    """

    def __init__(
        self,
        *,
        model: str,
        port: int = 0,
        slots: int = 4,
        context_tokens: int = 2048,
        dtype: str = "auto",
        kv_cache_memory_bytes: int | None = None,
        tensor_parallel: int = 1,
        options: Sequence[str] = (),
        load_timeout_s: float = 900.0,
        seed: int = 0,
        cores: Sequence[int] | None = None,
    ) -> None:
        if not 0 <= port < 65536 or load_timeout_s <= 0:
            raise DeploymentError(
                f"vllm-serve: port={port} must be in 0..65535 and load_timeout_s={load_timeout_s} above 0"
            )
        if slots < 1 or context_tokens < 2 or tensor_parallel < 1:
            raise DeploymentError(
                f"vllm-serve: slots={slots} and tensor_parallel={tensor_parallel} must be at least 1, "
                f"context_tokens={context_tokens} at least 2"
            )
        self._model, self._port, self._load_timeout_s, self._seed = model, port, load_timeout_s, seed
        self._slots, self._context_tokens, self._tensor_parallel = slots, context_tokens, tensor_parallel
        self._cores = None if cores is None else tuple(cores)
        self._words = [
            *("--model", str(Path(model).expanduser()), "--served-model-name", model, "--host", HOST),
            *("--dtype", dtype, "--max-num-seqs", str(slots), "--max-model-len", str(context_tokens)),
            *("--tensor-parallel-size", str(tensor_parallel), "--scheduling-policy", "priority"),
            *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
            *(["--kv-cache-memory-bytes", str(kv_cache_memory_bytes)] if kv_cache_memory_bytes is not None else []),
            *options,
        ]
        self._process: asyncio.subprocess.Process | None = None
        self._client: OpenAIEngine | None = None
        self._directory: Path | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._told = EngineState()

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._client is None:
            raise EngineError(f"vllm-serve: '{self._model}' has not been started; await start() first")
        return replace(self._client.capabilities, engine="vllm-serve")

    @property
    def process_id(self) -> int | None:
        """Of the guard, whose child the server is; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the server; returns when it serves.

        Raises
        ------
        DeploymentError
            If the model does not exist, needs more cards than there are, or has an architecture or options that the
            server refuses.
        EngineLoadError
            If the port is taken, or the server ends or is not ready in time; with the end of its log.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
        if self._client is not None:
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._launch(), name=f"serve {self._model}")
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Abort what runs and end the server; idempotent, also after a failed or cancelled `start`."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._end(), name=f"close {self._model}")
        await asyncio.shield(self._closing)

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the output of one request; see `Engine.generate` and `OpenAIEngine.generate`."""
        async for delta in self._serving().generate(request):
            yield delta

    async def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends at once. Unknown ids are ignored."""
        if self._client is not None:
            await self._client.abort(request_id)

    async def count_tokens(self, request: Request) -> int:
        """Prompt tokens of a request, as the server counts them."""
        return await self._serving().count_tokens(request)

    def state(self) -> EngineState:
        """Requests of this replica, and what the server said last of its cache.

        Raises
        ------
        EngineCrashedError
            If the server has ended.
        """
        client, process = self._client, self._process
        if client is None or process is None:
            return EngineState()
        if process.returncode is not None:
            raise EngineCrashedError(
                f"vllm-serve: the server of '{self._model}' ended with status {process.returncode}"
            )
        own = client.state()
        return replace(self._told, running=own.running, waiting=own.waiting)

    # -- the server ------------------------------------------------------------------------------

    def _serving(self) -> OpenAIEngine:
        if self._client is None or self._closing is not None:
            raise EngineCrashedError(f"vllm-serve: '{self._model}' is not serving; start it, or try another replica")
        return self._client

    async def _launch(self) -> None:
        check_model(self._model, engine="vllm-serve")
        check_cards(self._tensor_parallel, engine="vllm-serve")
        port = _free_port(self._port)
        self._directory = Path(tempfile.mkdtemp(prefix="fmware-"))  # of this user alone
        try:
            key, key_file = secrets.token_urlsafe(24), self._directory / "key"
            key_file.write_text(key)
            guard = (sys.executable, "-m", "dask_fmware_workers.engines.guard", str(os.getpid()))
            with (self._directory / "log").open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *guard,
                    *self._pinned(),
                    *COMMAND,
                    *self._words,
                    *("--port", str(port)),
                    stdout=log,
                    stderr=log,
                    env=self._environment(key),
                )
            client = OpenAIEngine(
                base_url=f"http://{HOST}:{port}/v1",
                model=self._model,
                dialect="vllm-priority",
                api_key_file=key_file,
                slots=self._slots,
                context_tokens=self._context_tokens,
                seed=self._seed,
            )
            await self._ready(client, port)
        except BaseException:
            await self._end_process()
            raise
        self._client = client
        self._reading = asyncio.create_task(self._read_metrics(port), name=f"metrics {self._model}")

    def _pinned(self) -> tuple[str, ...]:
        return () if self._cores is None else ("taskset", "-c", ",".join(map(str, self._cores)))

    def _environment(self, key: str) -> Mapping[str, str]:
        paths = os.pathsep.join(path for path in sys.path if path)  # as this worker found its packages
        return {**os.environ, "VLLM_API_KEY": key, OWNER: str(os.getpid()), "PYTHONPATH": paths}

    async def _ready(self, client: OpenAIEngine, port: int) -> None:
        """Wait until the server answers."""
        assert self._process is not None
        assert self._directory is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._load_timeout_s
        while True:
            if self._process.returncode is not None:
                log = _tail(self._directory / "log")
                kind = DeploymentError if any(word in log for word in HOPELESS) else EngineLoadError
                raise kind(
                    f"vllm-serve: the server of '{self._model}' ended with status {self._process.returncode} before it "
                    f"served; the end of its log: {_shown(log)}"
                )
            if loop.time() > deadline:
                raise EngineLoadError(
                    f"vllm-serve: '{self._model}' was not ready within load_timeout_s={self._load_timeout_s:g}; the "
                    f"end of its log: {_shown(_tail(self._directory / 'log'))}"
                )
            if await _listens(port):
                return await client.start()
            await asyncio.sleep(POLL_S)

    async def _read_metrics(self, port: int) -> None:
        """Read what the server counts, for as long as it serves."""
        while True:
            try:
                text = await asyncio.to_thread(_fetch, f"http://{HOST}:{port}/metrics")
            except OSError:  # it ends, or has no time: the last state stands
                pass
            else:
                self._told = _state_of(text)
            await asyncio.sleep(SCRAPE_S)

    async def _end(self) -> None:
        try:
            starting, self._starting = self._starting, None
            if starting is not None:
                starting.cancel()
                await asyncio.wait([starting])
            await self._end_process()
        finally:
            self._closing = None

    async def _end_process(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
        client, self._client = self._client, None
        if client is not None:
            await client.close()
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
        self._told = EngineState()


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


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True


def _fetch(url: str) -> str:
    with urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


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
