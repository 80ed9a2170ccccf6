"""Real servers for engines that reach one over the network: llama.cpp's own, on a port of this machine only."""

from __future__ import annotations

import socket
from typing import Any

_running: dict[tuple[int, int], Any] = {}


def llama_server(slots: int, context_tokens: int) -> str:
    """Address of a server of a tiny random model; each size is started once and stays for the session."""
    import xllamacpp

    from dask_fmware_workers.engines.tiny_gguf import TinyModel

    if (slots, context_tokens) not in _running:
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
        _running[slots, context_tokens] = xllamacpp.Server(parameters)
    return str(_running[slots, context_tokens].listening_address)


def stop_servers() -> None:
    """End all of them."""
    _running.clear()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
