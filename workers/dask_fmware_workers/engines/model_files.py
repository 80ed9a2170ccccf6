"""What the directory of a model says of its size, read without an engine.

It knows the layout that vLLM and transformers load: a ``config.json`` beside files of weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["ModelFiles", "find_model", "kv_bytes_per_token"]

ITEM_BYTES = {"float32": 4, "float": 4, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}  # all others that are served have two
FULL = "full_attention"
WINDOWS = ("sliding_window", "attention_chunk_size")
HYBRIDS = ("attn_layer_period", "layers_block_type", "hybrid_override_pattern")  # some layers have no cache
INDEXES = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}
ANOTHER_COPY = "consolidated"  # of the same weights, as Mistral's own library reads them


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory with a model."""

    path: Path

    @property
    def weight_bytes(self) -> int | None:
        """Size of the weights as they are stored; None where they are not here."""
        for kind in INDEXES:
            if files := self._weights(kind):
                return sum(file.stat().st_size for file in files)
        return None

    def _weights(self, kind: str) -> list[Path]:
        """Files of one kind that are loaded: those of the index, where there is one, and no copy beside them."""
        found, named = list(self.path.glob(f"*.{kind}")), self._named(INDEXES[kind])
        if listed := [file for file in found if file.name in named]:
            return listed
        return [file for file in found if not file.name.startswith(ANOTHER_COPY)] or found

    def _named(self, index: str) -> set[str]:
        """Names of files that an index lists; none where it is not there or no index."""
        try:
            told = json.loads((self.path / index).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        weights = told.get("weight_map") if isinstance(told, dict) else None
        return set(map(str, weights.values())) if isinstance(weights, dict) else set()

    def kv_bytes_per_token(self, dtype: str = "auto") -> float | None:
        """Bytes of keys and values of one token in `dtype`, ``"auto"`` for the model's own; None where it is not said.

        A file that cannot be read says nothing: whoever loads the model has a better error for it.
        """
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kv_bytes_per_token(config, dtype) if isinstance(config, dict) else None


def find_model(name: str, revision: str | None = None, cache: str | None = None) -> ModelFiles | None:
    """Return the directory of a model: the one of that path, else the copy that a library has loaded from a hub.

    Parameters
    ----------
    name
        A path, or as a hub names it.
    revision, cache
        Of the hub, and the directory of its copies; left out, those that libraries use.
    """
    path = Path(name).expanduser()
    if (path / "config.json").exists():
        return ModelFiles(path)
    try:
        hub = import_module("huggingface_hub")
        found = hub.try_to_load_from_cache(name, "config.json", cache_dir=cache, revision=revision)
    except (ImportError, ValueError):  # no such library, or no name of a hub
        return None
    return ModelFiles(Path(found).parent) if isinstance(found, str) else None


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str = "auto") -> float | None:
    """Bytes of keys and values of one token, by a model's configuration.

    None where a cache does not grow by the token in all layers: some see a window, or keep a state.

    Examples
    --------
    >>> llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    >>> kv_bytes_per_token(llama)  # 128 KiB of Llama 3 8B
    131072.0
    """
    text = config.get("text_config") or config
    layers, heads, width = (text.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    if not (layers and heads) or not _is_full(text):
        return None
    item_bytes = ITEM_BYTES.get(_dtype(config, text) if dtype == "auto" else dtype, 2)
    if latent := text.get("kv_lora_rank"):  # one compressed vector for keys and values of all heads
        return float(layers * (latent + (text.get("qk_rope_head_dim") or 0)) * item_bytes)
    head_width = text.get("head_dim") or (width and width // heads)
    groups = text.get("num_key_value_heads") or heads
    if not head_width or not isinstance(groups, int):
        return None
    return float(2 * layers * groups * head_width * item_bytes)


def _is_full(text: Mapping[str, Any]) -> bool:
    """Whether all layers attend to all tokens; without types of layers a window counts unless it is switched off."""
    if kinds := text.get("layer_types"):
        return set(kinds) == {FULL}
    has_window = any(text.get(name) for name in WINDOWS) and text.get("use_sliding_window") is not False
    return not has_window and not any(text.get(name) for name in HYBRIDS)


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    names = (known.get(name) for known in (config, text) for name in ("dtype", "torch_dtype"))
    return str(next((name for name in names if name), "bfloat16"))
