"""What a GGUF file says of itself, read without an engine.

It answers two questions before llama.cpp sees a file: is it a GGUF file at all (llama.cpp may end the
whole process on one that is not sound), and what does its metadata say. It knows nothing of weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_fmware.errors import DeploymentError, EngineLoadError

__all__ = ["GgufHeader", "read_header"]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The metadata of one GGUF file."""

    values: Mapping[str, Any]  # scalars and strings, and the token list as bytes

    @property
    def architecture(self) -> str:
        """As llama.cpp names it."""
        return str(self.values.get("general.architecture", "unknown"))

    @property
    def trained_context_tokens(self) -> int | None:
        """The longest context the model was trained for, where the file says."""
        return self.values.get(f"{self.values.get('general.architecture')}.context_length")

    @property
    def layers(self) -> int | None:
        """Blocks of the model, where the file says."""
        return self._shape("block_count")

    @property
    def kv_bytes_per_token(self) -> float | None:
        """Bytes of keys and values of one token in 16 bits; None where the layers differ or the file is silent."""
        layers, heads, width = self.layers, self._shape("attention.head_count"), self._shape("embedding_length")
        groups = self._shape("attention.head_count_kv") or heads
        if not (layers and heads and groups and width):
            return None
        key = self._shape("attention.key_length") or width // heads
        value = self._shape("attention.value_length") or width // heads
        return 2.0 * layers * groups * (key + value)

    def _shape(self, name: str) -> int | None:
        value = self.values.get(f"{self.values.get('general.architecture')}.{name}")
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
        value, offset = _value(data, offset + 4, kind, keep=name == _TOKENS.encode())
        if value is not None:
            values[name.decode()] = value
    return values


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
    if kind != _STRING:  # numbers: nobody asks for them
        end = offset + count * struct.calcsize(_SCALARS[kind])
        if end > len(data):
            raise ValueError(f"a list at byte {offset} ends beyond the file")
        return None, end
    texts = []
    for _ in range(count):
        text, offset = _string(data, offset)
        if keep:
            texts.append(text)
    return (texts if keep else None), offset
