"""What one llama.cpp replica serves and with what: its arguments, checked, and the loading of its model.

llama.cpp gives no reasons and may end the process, so all that can be known beforehand is looked at first: the file,
its architecture and context, the cores, and whether weights and KV cache fit into the memory that is free.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware_workers.accelerators import Need, check_memory, cpu_card, nvidia_cards
from dask_fmware_workers.engines.gguf_header import GgufHeader, model_parts, read_header
from dask_fmware_workers.engines.llama_server import LlamaServer
from dask_fmware_workers.engines.model_path import check_path
from dask_fmware_workers.engines.tiny_gguf import TinyModel

__all__ = ["LlamaSetup", "integer"]


class LlamaSetup:
    """Arguments of a replica; see `LlamaCppEngine`.

    Raises
    ------
    DeploymentError
        If an argument is out of its bounds.
    """

    def __init__(
        self,
        *,
        gguf: str | os.PathLike[str] | None,
        tiny: TinyModel | Mapping[str, Any] | None,
        slots: int,
        context_tokens: int,
        threads: int,
        cores: Sequence[int] | None,
        gpu_layers: int,
        embeds: bool = False,
        verbose: bool,
    ) -> None:
        if (gguf is None) == (tiny is None):
            raise DeploymentError("llama.cpp: give exactly one of 'gguf' (a file) and 'tiny' (a random model)")
        self._gguf = None if gguf is None else Path(gguf).expanduser()
        self._tiny = _tiny_model(tiny)
        self.slots = integer("slots", slots, 1, 256)
        self.context_tokens = integer("context_tokens", context_tokens, 8, 1 << 24)
        self._threads = integer("threads", threads, 1, 512)
        self._cores = _core_numbers(cores, threads)
        self._gpu_layers = integer("gpu_layers", gpu_layers, -1, 10_000)
        self._embeds, self._verbose = embeds, verbose

    @property
    def name(self) -> str:
        """The model, for people."""
        return str(self._gguf) if self._gguf is not None else self._tiny.key

    def load(self) -> tuple[LlamaServer, GgufHeader]:
        """Check everything that llama.cpp would answer with silence or with the end of the process, then load.

        It blocks for as long as that takes.

        Raises
        ------
        DeploymentError, EngineLoadError
            See `LlamaCppEngine.start`.
        """
        path = self._gguf if self._gguf is not None else self._tiny.cached_path()
        check_path(path, engine="llama.cpp")
        header = read_header(path)
        _check_parts(path, header)
        if self._embeds and self._gguf is not None and not header.pools:
            raise DeploymentError(
                f"llama.cpp: '{path}', of architecture '{header.architecture}', says nothing of how a text becomes one "
                "vector (pooling_type), as a file of a model that embeds does; correct 'gguf' or 'embeds'"
            )
        trained = header.trained_context_tokens
        if trained is not None and self.context_tokens > trained:
            raise DeploymentError(
                f"llama.cpp: context_tokens={self.context_tokens} exceed the {trained} that '{path}' was trained for; "
                "lower context_tokens"
            )
        available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if self._cores is not None and (available is None or not available.issuperset(self._cores)):
            found = f"available: {sorted(available)}" if available else "this platform does not pin threads"
            raise EngineLoadError(f"llama.cpp: cores={list(self._cores)} cannot be used ({found}); correct 'cores'")
        self._check_memory(path, header)
        try:
            server = self._loaded(path, self.slots, self.context_tokens, self._gpu_layers)
        except ImportError as error:
            raise EngineLoadError(
                f"llama.cpp: the engine needs '{error.name}'; pip install \"dask-fmware[embedded]\""
            ) from error
        except (RuntimeError, OSError) as error:
            what = f"llama.cpp: could not load '{path}', of architecture '{header.architecture}' ({error})"
            if self._refuses(path):
                raise DeploymentError(
                    f"{what}: either it is damaged or cut off, or this build does not know the architecture; see its "
                    "log with verbose=True, download the file again or upgrade xllamacpp"
                ) from error
            raise EngineLoadError(
                f"{what}, though it can be read: {self.slots} slots of {self.context_tokens} tokens with gpu_layers="
                f"{self._gpu_layers} need more memory than there is, or another device; see its log with verbose=True"
            ) from error
        return server, header

    def _loaded(self, path: Path, slots: int, context_tokens: int, gpu_layers: int) -> LlamaServer:
        return LlamaServer(
            path,
            slots=slots,
            context_tokens=context_tokens,
            threads=self._threads,
            cores=self._cores,
            gpu_layers=gpu_layers,
            embeds="mean" if self._embeds and self._gguf is None else self._embeds,
            verbose=self._verbose,
        )

    def _refuses(self, path: Path) -> bool:
        """Whether a model is refused, without a reason, also where it needs the least: no waiting mends that."""
        try:
            self._loaded(path, 1, 8, 0).close()
        except (RuntimeError, OSError):
            return True
        return False

    def _check_memory(self, path: Path, header: GgufHeader) -> None:
        """Refuse what cannot fit, before llama.cpp takes the memory of others; layers kept on the CPU are its own."""
        cache = self.slots * self.context_tokens * (header.kv_bytes_per_token or 0.0)
        share, card = 1.0, cpu_card(self._cores)
        if self._gpu_layers:
            cards = nvidia_cards()
            if len(cards) != 1:
                return  # llama.cpp spreads layers over several, or uses cards that nobody can ask
            layers, card = (header.layers or 0) + 1, cards[0]  # the output counts as one
            share = 1.0 if self._gpu_layers < 0 else min(1.0, self._gpu_layers / layers)
        because = f"{self.slots} slots of {self.context_tokens} tokens"
        weights = sum(part.stat().st_size for part in model_parts(path))
        need = Need(int(share * weights), int(share * cache), because)
        check_memory(need, card, what=f"llama.cpp: '{path}'")


def _check_parts(path: Path, header: GgufHeader) -> None:
    """Refuse a part of a model without the others, or another one than the first."""
    number, count = header.parts
    if number:
        raise DeploymentError(
            f"llama.cpp: '{path}' is file {number + 1} of the {count} of its model; name the first one as 'gguf'"
        )
    found = len(model_parts(path))
    if found < count:
        raise DeploymentError(
            f"llama.cpp: of the {count} files of the model of '{path}' {found} are there; put all into one directory, "
            "with the names that they were given"
        )


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return an argument that is an integer within bounds; `DeploymentError` if it is not."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DeploymentError(f"llama.cpp: {name}={value!r} is not an integer in {low}..{high}")
    return value


def _tiny_model(tiny: TinyModel | Mapping[str, Any] | None) -> TinyModel:
    if tiny is None or isinstance(tiny, TinyModel):
        return tiny or TinyModel()
    try:
        return TinyModel(**tiny)
    except TypeError as error:
        known = ", ".join(TinyModel.__dataclass_fields__)
        raise DeploymentError(f"llama.cpp: tiny={tiny!r} is no tiny model ({error}); it takes {known}") from error


def _core_numbers(cores: Sequence[int] | None, threads: int) -> tuple[int, ...] | None:
    if cores is None:
        return None
    if not isinstance(cores, Sequence):
        raise DeploymentError(f"llama.cpp: cores={cores!r} is not a list of core numbers")
    numbers = tuple(integer("cores", core, 0, 4095) for core in cores)
    if len(set(numbers)) != len(numbers) or len(numbers) < threads:
        raise DeploymentError(f"llama.cpp: cores={list(cores)} must be {threads} or more different cores (threads)")
    return numbers
