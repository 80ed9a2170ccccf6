"""What a GGUF file says of itself, read without an engine.

It answers two questions before llama.cpp sees a file: is it a GGUF file at all (llama.cpp may end the
whole process on one that is not sound), and what does its metadata say. Of weights it knows only in which files
they lie.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_fmware.errors import DeploymentError, EngineLoadError

__all__ = ["GgufHeader", "model_parts", "read_header"]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
_TOKENS = "tokenizer.ggml.tokens"
_PER_LAYER = (".attention.head_count", ".attention.head_count_kv")  # one number for all layers, or a list
_WINDOWED = ("gemma2", "llama4")  # to llama.cpp also where the file does not say so
_POOLINGS = (1, 2, 3)  # mean, first token, last token; not 0, none, and 4, which ranks
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata of one GGUF file."""

    values: Mapping[str, Any]  # scalars, strings, heads of each layer, and the token list as bytes

    @property
    def architecture(self) -> str:
        """As llama.cpp names it."""
        return str(self.values.get("general.architecture", "unknown"))

    @property
    def trained_context_tokens(self) -> int | None:
        """The longest context the model was trained for, where the file says."""
        return self._of("context_length")  # type: ignore[no-any-return]

    @property
    def layers(self) -> int | None:
        """Blocks of the model, where the file says."""
        return self._shape("block_count")

    @property
    def pools(self) -> bool:
        """Whether the file says how one vector is made of those of all tokens, as that of a model that embeds does."""
        return self._shape("pooling_type") in _POOLINGS

    @property
    def parts(self) -> tuple[int, int]:
        """Which one of its model's files this is, from 0, and how many there are."""
        number, count = (self.values.get(f"split.{name}") for name in ("no", "count"))
        return number if isinstance(number, int) else 0, count if isinstance(count, int) else 1

    @property
    def kv_bytes_per_token(self) -> float | None:
        """Bytes of keys and values of one token in 16 bits, over all layers.

        None where the file is silent, and where a cache does not grow by the token: layers that see a window,
        state-space layers, and latent attention, of which llama.cpp keeps another shape. An encoder keeps nothing.
        """
        if self._of("attention.causal") is False:
            return 0.0
        heads, width = self._of("attention.head_count"), self._shape("embedding_length")
        cached = self._cached_heads(heads)
        if not cached or self._windowed or self._of("attention.kv_lora_rank") or self._has_state:
            return None
        usual = width // heads if width and isinstance(heads, int) and heads else None
        key, value = (self._shape(f"attention.{name}_length") or usual for name in ("key", "value"))
        return 2.0 * cached * (key + value) if key and value else None

    def _cached_heads(self, heads: Any) -> int | None:
        """Heads with keys and values of their own, summed over the layers."""
        groups = self._of("attention.head_count_kv")
        each, layers = heads if groups is None else groups, self.layers
        if isinstance(each, list):
            return sum(each) if len(each) == layers else None
        return each * layers if isinstance(each, int) and layers else None

    @property
    def _windowed(self) -> bool:
        window = self._of("attention.sliding_window")
        return self.architecture in _WINDOWED if window is None else bool(window)

    @property
    def _has_state(self) -> bool:
        return any(name.startswith(f"{self.architecture}.ssm.") for name in self.values)

    def _of(self, name: str) -> Any:
        return self.values.get(f"{self.values.get('general.architecture')}.{name}")

    def _shape(self, name: str) -> int | None:
        value = self._of(name)
        return value if isinstance(value, int) else None

    @property
    def longest_token_bytes(self) -> int:
        """UTF-8 bytes of the longest token, never too few."""
        tokens: list[bytes] = self.values.get(_TOKENS, [])
        match self.values.get("tokenizer.ggml.model"):
            case "gpt2":  # one character stands for one byte
                lengths = (len(token.decode("utf-8", "replace")) for token in tokens)
            case "llama" | "t5":  # U+2581 stands for a space
                lengths = (len(token.replace(b"\xe2\x96\x81", b" ")) for token in tokens)
            case _:
                lengths = (len(token) for token in tokens)
        return max(lengths, default=16)


def read_header(path: Path) -> GgufHeader:
    """Read the metadata of a GGUF file.

    Raises
    ------
    EngineLoadError
        If the file cannot be read at present.
    DeploymentError
        If it is not a GGUF file, or cut off inside its metadata.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return GgufHeader(_parse(data))
    except (ValueError, struct.error, KeyError, UnicodeDecodeError, IsADirectoryError) as error:
        raise DeploymentError(
            f"llama.cpp: '{path}' is not a whole GGUF file ({error}); download it again or correct 'gguf'"
        ) from error
    except OSError as error:
        raise EngineLoadError(f"llama.cpp: cannot read '{path}' ({error.strerror}); correct 'gguf'") from error


def model_parts(path: Path) -> list[Path]:
    """Return the files of the model that a file is of, as far as they are there; their names say which they are."""
    named = _PART.fullmatch(path.name)
    if named is None:
        return [path]
    stem, count = named.groups()
    parts = [path.with_name(f"{stem}-{number:05d}-of-{count}.gguf") for number in range(1, int(count) + 1)]
    return [part for part in parts if part.exists()]


def _parse(data: mmap.mmap) -> dict[str, Any]:
    if data[:4] != b"GGUF":
        raise ValueError(f"it starts with {bytes(data[:4])!r}")
    version, _tensors, entries = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        raise ValueError(f"format version {version}; 2 and 3 are supported")
    values: dict[str, Any] = {}
    offset = 24
    for _ in range(entries):
        name, offset = _string(data, offset)
        (kind,) = struct.unpack_from("<I", data, offset)
        value, offset = _value(data, offset + 4, kind, keep=_asked_for(name.decode()))
        if value is not None:
            values[name.decode()] = value
    return values


def _asked_for(name: str) -> bool:
    """Whether somebody asks for a list of this name."""
    return name == _TOKENS or name.endswith(_PER_LAYER)


def _string(data: mmap.mmap, offset: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, offset)
    end = offset + 8 + length
    if end > len(data):
        raise ValueError(f"a text at byte {offset} ends beyond the file")
    return data[offset + 8 : end], end


def _value(data: mmap.mmap, offset: int, kind: int, *, keep: bool) -> tuple[Any, int]:
    if kind == _STRING:
        text, offset = _string(data, offset)
        return text.decode(), offset
    if kind != _ARRAY:
        return struct.unpack_from(_SCALARS[kind], data, offset)[0], offset + struct.calcsize(_SCALARS[kind])
    kind, count = struct.unpack_from("<IQ", data, offset)
    offset += 12
    if kind != _STRING:
        end = offset + count * struct.calcsize(_SCALARS[kind])
        if end > len(data):
            raise ValueError(f"a list at byte {offset} ends beyond the file")
        if not keep or kind not in _INTEGERS:
            return None, end
        return [number for (number,) in struct.iter_unpack(_SCALARS[kind], data[offset:end])], end
    texts = []
    for _ in range(count):
        text, offset = _string(data, offset)
        if keep:
            texts.append(text)
    return (texts if keep else None), offset
