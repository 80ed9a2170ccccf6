"""Real servers for engines that reach one over the network: llama.cpp's own and vLLM's, on ports of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from typing import Any

_running: dict[tuple[int, int, bool], Any] = {}
_vllm: dict[tuple[int, int], tuple[subprocess.Popen[bytes], str]] = {}
VLLM_KEY, VLLM_KEY_ENV = "of-the-tests", "FMWARE_TEST_VLLM_KEY"


def llama_server(slots: int, context_tokens: int, *, embeds: bool = False) -> str:
    """Address of a server of a tiny random model; each kind is started once and stays for the session."""
    import xllamacpp

    from dask_fmware_workers.engines.tiny_gguf import TinyModel

    if (slots, context_tokens, embeds) not in _running:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(TinyModel(layers=2, width=128, heads=4, end_probability=0.0).cached_path())
        parameters.model_alias = {"tiny"}
        parameters.n_parallel = slots
        parameters.n_ctx = slots * -(-(context_tokens + 1) // 256) * 256
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.fit_params = parameters.ui = False
        parameters.cache_ram_mib = 0
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = free_port()
        parameters.n_threads_http = 4 * slots + 4
        parameters.verbosity = -1
        if embeds:
            parameters.embedding = True
            parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            parameters.kv_unified = True  # else the mean of a long text beside a short one is wrong
        _running[slots, context_tokens, embeds] = xllamacpp.Server(parameters)
    return str(_running[slots, context_tokens, embeds].listening_address)


def vllm_server(model: str, slots: int, context_tokens: int, options: list[str]) -> str:
    """Address of vLLM's server as the engine ``vllm-serve`` starts it; each size is started once."""
    from dask_fmware_workers.engines.vllm_serve import VllmServeEngine
    from dask_fmware_workers.engines.vllm_server import COMMAND

    if (slots, context_tokens) not in _vllm:
        engine = VllmServeEngine(
            model=model,
            dtype="float32",  # see `_vllm_serve` of conftest.py
            slots=slots,
            context_tokens=context_tokens,
            kv_cache_memory_bytes=32 << 20,
            options=options,
        )
        port = free_port()
        process = subprocess.Popen(
            [*COMMAND, *engine._server._words, "--port", str(port)],
            env={**os.environ, "VLLM_API_KEY": VLLM_KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _vllm[slots, context_tokens] = process, f"http://127.0.0.1:{port}/v1"

        while process.poll() is None and not listens(port):
            time.sleep(0.2)
        assert process.poll() is None, f"vLLM's server ended with {process.returncode}"
    return _vllm[slots, context_tokens][1]


def stop_servers() -> None:
    """End all of them."""
    _running.clear()
    for process, _address in _vllm.values():
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    _vllm.clear()


def listens(port: int) -> bool:
    """Whether somebody takes connections on a port of this machine."""
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
        return taken and probe.getsockname() != probe.getpeername()  # a connection to itself is none


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
