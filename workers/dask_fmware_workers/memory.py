"""What memory a replica takes: what loading it took, the files of its weights, keys and values of a token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from dask_fmware_workers.accelerators import nvidia_bytes, nvidia_cards
from dask_fmware_workers.engines.gguf_header import model_parts, read_header
from dask_fmware_workers.engines.model_files import ModelFiles, find_model

__all__ = ["Footprint", "file_bytes", "kv_bytes_per_token", "weight_bytes"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that this process and those it started hold."""

    process_bytes: int = 0  # resident
    gpu_bytes: int | None = None  # theirs on all GPUs; None where NVML does not tell
    card_bytes: int | None = None  # in use on the GPUs that this process may see, whoever uses it; None without any

    @classmethod
    def now(cls) -> Footprint:
        """Ask the system, and NVML where `nvidia-ml-py` is installed."""
        resident: dict[int, int] = {}
        mine = psutil.Process()
        for process in (mine, *mine.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                resident[process.pid] = process.memory_info().rss
        cards = [card for card in nvidia_cards() if card.memory_bytes is not None and card.free_bytes is not None]
        used = sum((card.memory_bytes or 0) - (card.free_bytes or 0) for card in cards)
        return cls(sum(resident.values()), nvidia_bytes(resident), used if cards else None)

    def beyond(self, before: Footprint) -> Footprint:
        """What was added since; on GPUs what all processes added, where NVML does not know ours."""
        added = None if self.card_bytes is None else max(0, self.card_bytes - (before.card_bytes or 0))
        own = None if self.gpu_bytes is None else max(0, self.gpu_bytes - (before.gpu_bytes or 0))
        return Footprint(max(0, self.process_bytes - before.process_bytes), added if own is None else own, added)


def _weights_file(arguments: Mapping[str, Any]) -> Path | None:
    """The GGUF file that an engine serves, if it serves one."""
    if arguments.get("gguf") is not None:
        return Path(arguments["gguf"]).expanduser()
    if isinstance(arguments.get("tiny"), Mapping):
        from dask_fmware_workers.engines.tiny_gguf import TinyModel

        return TinyModel(**arguments["tiny"]).cached_path()
    return None


def _model_files(arguments: Mapping[str, Any]) -> ModelFiles | None:
    """The directory of a model that an engine serves, if it serves one that is here."""
    if "model" not in arguments:
        return None
    options = arguments.get("options")
    return find_model(str(arguments["model"]), _option(options, "revision"), _option(options, "download_dir"))


def weight_bytes(arguments: Mapping[str, Any], footprint: Footprint, of_files: int | None) -> int | None:
    """Size of the weights: of their files, else what loading took on the GPUs, else in the processes.

    Engines that load a model by its name take memory for a whole KV cache with it: there the files count alone.
    """
    if of_files or "model" in arguments:
        return of_files
    return footprint.gpu_bytes or footprint.process_bytes or None


def file_bytes(arguments: Mapping[str, Any]) -> int | None:
    """Size of the files of the weights that an engine with these arguments serves; None where they are not here."""
    path, directory = _weights_file(arguments), _model_files(arguments)
    if path is not None and path.exists():
        return sum(part.stat().st_size for part in model_parts(path))
    return None if directory is None else directory.weight_bytes


def kv_bytes_per_token(arguments: Mapping[str, Any]) -> float | None:
    """Bytes of keys and values of one token: in 16 bits by a GGUF file, else in the type that is served."""
    path, directory = _weights_file(arguments), _model_files(arguments)
    if path is not None and path.exists():
        return read_header(path).kv_bytes_per_token
    if directory is None:
        return None
    dtype = _option(arguments.get("options"), "kv_cache_dtype") or "auto"  # "auto": as the activations
    return directory.kv_bytes_per_token(str(arguments.get("dtype", "auto")) if dtype == "auto" else dtype)


def _option(options: Any, name: str) -> str | None:
    """What an option of vLLM says: those of an engine in the worker are a mapping, those of a server its words."""
    if isinstance(options, Mapping):
        return str(options.get(name) or "") or None
    words = [part for word in options or () for part in str(word).split("=", 1)]
    flag = "--" + name.replace("_", "-")
    return next((value for word, value in pairwise(words) if word == flag), None)
