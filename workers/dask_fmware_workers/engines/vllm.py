"""vLLM: the production engine for GPUs, owned by a model-hosting worker.

Why choose it
    The best throughput on a GPU: paged KV cache, continuous batching, prefix cache, guided output, tensor
    parallelism. Where somebody else runs a vLLM server, the ``openai`` engine reaches it.

Inputs
    A model directory, or a name that vLLM can load; slots, context, and whatever `EngineArgs` takes.

What it does
    See `TokenEngine` for the queue before its slots. The order of the router is vLLM's priority too: when the KV cache
    is full, what is least urgent gives way. Load, use of the cache, prefix hits and preemptions are read from vLLM's
    own statistics.
    ``mode: one_process`` steps vLLM's engine in a thread of this worker: small, quick to start, nothing to
    outlive the worker. ``mode: processes`` is vLLM's own asynchronous engine, with its scheduler and its cards in
    child processes; they end with the worker, even one that was killed (see `vllm_watch`).

Configuration
    See `VllmEngine`. Set ``kv_cache_memory_bytes``: by default vLLM takes most of the memory of a card.

Trade-offs
    Seconds to a minute to start. In one process the scheduler shares the GIL with the worker. Child processes
    cannot be started by a daemonic process, which Dask's workers under a nanny are: set the Dask
    configuration ``distributed.worker.daemon: False``. On CPUs set ``OMP_NUM_THREADS=1`` for small models and
    ``block_size: 32`` in `options`, or short prefixes are never reused. Small models may fill
    a document with blanks until they are cut: ``structured_outputs_config: {"backend": "xgrammar",
    "disable_any_whitespace": true}`` forbids that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dask_fmware.errors import DeploymentError
from dask_fmware_workers.engines.model_path import check_cards, check_model
from dask_fmware_workers.engines.token_engine import Backend, TokenEngine
from dask_fmware_workers.engines.vllm_backends import BACKENDS
from dask_fmware_workers.engines.vllm_version import vllm_version

__all__ = ["VllmEngine"]


class VllmEngine(TokenEngine):
    """One model served by vLLM.

    Parameters
    ----------
    model
        Directory or name of the model.
    mode
        ``"one_process"`` or ``"processes"``.
    slots
        Requests that run at once.
    context_tokens
        Prompt plus output of one request.
    dtype
        Of weights and activations, ``"auto"`` for the model's own.
    kv_cache_memory_bytes
        Size of the KV cache; None leaves it to vLLM.
    tensor_parallel
        Cards that share each layer.
    options
        Other arguments of vLLM's `EngineArgs`, such as ``{"enforce_eager": True}``.
    seed
        Of the seeds of requests that bring none.
    cores
        Taken and ignored.

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds.
    """

    name: ClassVar[str] = "vllm"

    def __init__(
        self,
        *,
        model: str,
        mode: str = "one_process",
        slots: int = 4,
        context_tokens: int = 2048,
        dtype: str = "auto",
        kv_cache_memory_bytes: int | None = None,
        tensor_parallel: int = 1,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        cores: Sequence[int] | None = None,
    ) -> None:
        if mode not in BACKENDS:
            raise DeploymentError(f"vllm: mode={mode!r} does not exist; there are {', '.join(BACKENDS)}")
        if slots < 1 or context_tokens < 2 or tensor_parallel < 1:
            raise DeploymentError(
                f"vllm: slots={slots} and tensor_parallel={tensor_parallel} must be at least 1, "
                f"context_tokens={context_tokens} at least 2"
            )
        if mode == "one_process" and tensor_parallel > 1:
            raise DeploymentError(f"vllm: tensor_parallel={tensor_parallel} needs mode 'processes'")
        if {"scheduling_policy", "disable_log_stats"} & set(options or {}):
            raise DeploymentError(
                "vllm: 'scheduling_policy' and 'disable_log_stats' in 'options' are set here; drop them"
            )
        super().__init__(model, slots=slots, context_tokens=context_tokens, seed=seed)
        self._mode = mode
        self._arguments = {
            "model": os.path.expanduser(model),
            "dtype": dtype,
            "max_num_seqs": slots,
            "max_model_len": context_tokens,
            "kv_cache_memory_bytes": kv_cache_memory_bytes,
            "tensor_parallel_size": tensor_parallel,
            "scheduling_policy": "priority",
            **(options or {}),
        }

    def _make_backend(self, loop: asyncio.AbstractEventLoop) -> Backend:
        check_model(self._model, engine=self.name)
        check_cards(self._arguments["tensor_parallel_size"], engine=self.name)
        return BACKENDS[self._mode](loop, self._arguments)

    def _version(self) -> str:
        return vllm_version()
