"""Transformers with continuous batching: a GPU or CPU engine where vLLM is not installed.

Why choose it
    Every decoder-only model that transformers knows, on any device that PyTorch knows, without compiling anything.

Inputs
    A model directory in the format of Hugging Face (or a name that transformers can load), or a configuration
    whose weights are drawn at random.

What it does
    See `TokenEngine` for the queue before its slots. The model, its paged KV cache and its prefix cache are
    those of transformers' continuous batching, stepped by a thread of this process. Text, stop strings,
    sampling with a seed for each request and formats are ours: see `Detokenizer` and `transformers_sampling`.
    The cache holds `slots` requests of the whole context, so no request is ever swapped out.

Configuration
    See `TransformersEngine`.

Trade-offs
    Sampling decides on the host between two steps, so neither CUDA graphs nor asynchronous batching are used:
    a small model on a large GPU waits for kernel launches. Attention is PyTorch's unless `options` say else;
    with it, the time of a step grows with the size of the whole cache, not only with what is in use: keep
    `slots` times `context_tokens` close to what is needed. On a CPU, `threads` counts for the whole process.
    Transformers declares the inner objects used here private: its version is pinned.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dask_fmware.errors import DeploymentError
from dask_fmware_workers.engines.model_path import check_model
from dask_fmware_workers.engines.token_engine import Backend, TokenEngine
from dask_fmware_workers.engines.transformers_loop import Loop, Plan

__all__ = ["TransformersEngine"]

REFUSED = ("use_cuda_graph", "use_async_batching", "varlen_compile_config", "decode_compile_config", "num_blocks")


class TransformersEngine(TokenEngine):
    """One model served by transformers' continuous batching.

    Parameters
    ----------
    model
        Directory or name of the model.
    device
        As PyTorch names it; None for a GPU if there is one, else the CPU.
    dtype
        Of weights and activations, ``"auto"`` for the model's own.
    slots
        Requests that run at once.
    context_tokens
        Prompt plus output of one request.
    step_tokens
        Prompt tokens that one step prefills at most; long prompts are spread over steps.
    page_tokens
        Tokens of one page of the KV cache: prefixes are reused in whole pages.
    random_weights
        Take only the configuration and the tokenizer from `model`, and draw the weights.
    threads
        PyTorch's compute threads, on a CPU.
    cores
        Cores that the engine may use (Linux).
    options
        Other arguments of transformers' `ContinuousBatchingConfig`; ``attn_implementation`` goes to the model.
    seed
        Of random weights, and of the seeds of requests that bring none.

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds.
    """

    name: ClassVar[str] = "transformers"

    def __init__(
        self,
        *,
        model: str,
        device: str | None = None,
        dtype: str = "auto",
        slots: int = 4,
        context_tokens: int = 2048,
        step_tokens: int = 512,
        page_tokens: int = 32,
        random_weights: bool = False,
        threads: int | None = None,
        cores: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        bounds = {"slots": (slots, 1), "context_tokens": (context_tokens, 2), "page_tokens": (page_tokens, 4)}
        bounds |= {"step_tokens": (step_tokens, slots), "threads": (1 if threads is None else threads, 1)}
        for name, (value, least) in bounds.items():
            if value < least:
                raise DeploymentError(f"transformers: {name}={value} is below {least}")
        if refused := sorted(set(REFUSED) & set(options or {})):
            raise DeploymentError(f"transformers: {', '.join(refused)} in 'options' cannot be set here; drop them")
        super().__init__(model, slots=slots, context_tokens=context_tokens, seed=seed)
        self._plan = Plan(
            model,
            device=device,
            dtype=dtype,
            slots=slots,
            context_tokens=context_tokens,
            step_tokens=step_tokens,
            page_tokens=page_tokens,
            random_weights=random_weights,
            threads=threads,
            cores=tuple(cores) if cores is not None else None,
            options=dict(options or {}),
            seed=seed,
        )

    def _make_backend(self, loop: asyncio.AbstractEventLoop) -> Backend:
        check_model(self._model, engine=self.name)
        return Loop(loop, self._plan)

    def _version(self) -> str:
        return importlib.metadata.version("transformers")
