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
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineError
from dask_fmware.model.engine import Capabilities, Delta, EngineState, Request
from dask_fmware_workers.engines.model_path import check_cards, check_model
from dask_fmware_workers.engines.openai_server import OpenAIEngine
from dask_fmware_workers.engines.vllm_server import VllmServer
from dask_fmware_workers.engines.vllm_version import vllm_version

__all__ = ["VllmServeEngine"]

PATIENCE_S = 3600.0  # without a piece of an answer: prompts are long on CPUs, and urgent calls suspend others


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
    first_token_timeout_s, stall_timeout_s
        Seconds until an answer must begin, and between two pieces of it. Beyond that the server is started again with
        all that it has, so both are long: that it ends is seen at once, and how long a call may be silent is the
        router's (`router.stall_s`).
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
        first_token_timeout_s: float = PATIENCE_S,
        stall_timeout_s: float = PATIENCE_S,
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
        if isinstance(options, (str, Mapping)):
            raise DeploymentError(
                "vllm-serve: options must be a list of words of its command line, such as [--enforce-eager], "
                f"and is a {type(options).__name__}"
            )
        if not (first_token_timeout_s > 0 and stall_timeout_s > 0):
            raise DeploymentError(
                f"vllm-serve: first_token_timeout_s={first_token_timeout_s} and stall_timeout_s={stall_timeout_s} must "
                "be above 0"
            )
        self._model, self._port, self._load_timeout_s, self._seed = model, port, load_timeout_s, seed
        self._first_token_timeout_s, self._stall_timeout_s = first_token_timeout_s, stall_timeout_s
        self._slots, self._context_tokens, self._tensor_parallel = slots, context_tokens, tensor_parallel
        words = [
            *("--model", str(Path(model).expanduser()), "--served-model-name", model),
            *("--dtype", dtype, "--max-num-seqs", str(slots), "--max-model-len", str(context_tokens)),
            *("--tensor-parallel-size", str(tensor_parallel), "--scheduling-policy", "priority"),
            *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
            *(["--kv-cache-memory-bytes", str(kv_cache_memory_bytes)] if kv_cache_memory_bytes is not None else []),
            *map(str, options),
        ]
        self._server = VllmServer(model, words, None if cores is None else tuple(cores))
        self._client: OpenAIEngine | None = None
        self._version = ""  # of vLLM, once it serves
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; valid after `start`."""
        if self._client is None:
            raise EngineError(f"vllm-serve: '{self._model}' has not been started; await start() first")
        return replace(self._client.capabilities, engine="vllm-serve", engine_version=self._version)

    @property
    def process_id(self) -> int | None:
        """Of the guard, whose child the server is; None while there is none."""
        return self._server.process_id

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
        if self._client is None:
            return EngineState()
        if (status := self._server.exit_status) is not None:
            raise EngineCrashedError(f"vllm-serve: the server of '{self._model}' ended with status {status}")
        own = self._client.state()
        return replace(self._server.told, running=own.running, waiting=own.waiting)

    # -- the server ------------------------------------------------------------------------------

    def _serving(self) -> OpenAIEngine:
        if self._client is None or self._closing is not None:
            raise EngineCrashedError(f"vllm-serve: '{self._model}' is not serving; start it, or try another replica")
        return self._client

    async def _launch(self) -> None:
        check_model(self._model, engine="vllm-serve")
        check_cards(self._tensor_parallel, engine="vllm-serve")
        server = self._server
        try:
            await server.start(self._port)
            client = OpenAIEngine(
                base_url=f"{server.url}/v1",
                model=self._model,
                dialect="vllm-priority",
                api_key_file=server.key_file,
                slots=self._slots,
                context_tokens=self._context_tokens,
                first_token_timeout_s=self._first_token_timeout_s,
                stall_timeout_s=self._stall_timeout_s,
                seed=self._seed,
            )
            await server.until_it_serves(self._load_timeout_s)
            self._version = await asyncio.to_thread(vllm_version)
            await client.start()
        except BaseException:
            await server.end()
            raise
        self._client = client
        server.watch()

    async def _end(self) -> None:
        try:
            starting, self._starting = self._starting, None
            if starting is not None:
                starting.cancel()
                await asyncio.wait([starting])
            client, self._client = self._client, None
            if client is not None:
                await client.close()
            await self._server.end()
        finally:
            self._closing = None
