"""Small random llama models, written as GGUF files on this machine.

A tiny model makes the embedded engine real (real tokens, real caches, real queues) without a
download: the file is written once into a cache directory from nothing but its parameters. Its answers
are a salad of English words, never an answer; where a label or a document is needed, constrain the
output. This module owns the parameters and the cache; `tiny_weights` makes the file.

Measured on one thread of a 2.6 GHz server core (AVX2) with xllamacpp 2026.10, 4 slots, prompts of 50
tokens (decode) and 500 (prefill), best of several runs on a shared machine, plus or minus 30 %:

======  ========================  =====  ================  ===================  ============
model   parameters                file   1 at a time       4 at a time          prefill
======  ========================  =====  ================  ===================  ============
`FAST`  ``layers=8, width=512``   23 MB  2.4 ms per token  10 ms, 250 tokens/s  830 tokens/s
`SLOW`  ``layers=20, width=512``  46 MB  6.2 ms per token  24 ms, 130 tokens/s  300 tokens/s
======  ========================  =====  ================  ===================  ============

Tests that only need an engine take ``layers=2, width=128, heads=4``: 0.2 ms per token, 2 MB.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware_workers.engines.tiny_weights import BLOCK, write_weights
from dask_fmware_workers.engines.words import PIECES, WORDS

__all__ = ["FAST", "FORMAT_VERSION", "SLOW", "TinyModel", "cache_directory"]

FORMAT_VERSION = 2
"""Part of the cache key: raise it when equal parameters give another file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """Parameters of a tiny model; equal parameters give equal files.

    Time for a token grows with ``layers * width**2``. `FAST` and `SLOW` differ only in layers and are
    about 2.5 times apart on one thread: a fast and a slow replica of "one model".

    Raises
    ------
    DeploymentError
        If a parameter is out of its bounds.

    Examples
    --------
    >>> TinyModel(layers=2, width=128, heads=4).feed_forward
    384
    >>> TinyModel(layers=0)
    Traceback (most recent call last):
    dask_fmware.errors.DeploymentError: tiny model: layers=0 is outside 1..200
    """

    layers: int = 8  # transformer blocks
    width: int = 512  # length of the residual stream; a multiple of 32 and of heads
    heads: int = 8  # attention heads; width / heads must be even
    seed: int = 0  # of all weights
    context_tokens: int = 32768  # the longest context the file claims to be trained for
    end_probability: float = 0.002  # mean chance, at default sampling, that a token ends the text
    extra_words: tuple[str, ...] = ()  # words that become tokens of their own, such as labels

    def __post_init__(self) -> None:
        bounds = {"layers": (1, 200), "width": (64, 8192), "heads": (1, 128), "context_tokens": (64, 1 << 20)}
        for name, (low, high) in bounds.items():
            self._check_integer(name, getattr(self, name), low, high)
        self._check_integer("seed", self.seed, 0, (1 << 63) - 1)
        if self.width % BLOCK or self.width % (2 * self.heads):
            raise DeploymentError(
                f"tiny model: width={self.width} must be a multiple of {BLOCK} and of twice heads={self.heads}"
            )
        if not 0.0 <= self.end_probability <= 0.5:
            raise DeploymentError(f"tiny model: end_probability={self.end_probability!r} is outside 0..0.5")
        if isinstance(self.extra_words, str):
            raise DeploymentError(f"tiny model: extra_words={self.extra_words!r} is one text; give a list of words")
        object.__setattr__(self, "extra_words", tuple(self.extra_words))  # YAML gives a list
        for word in self.extra_words:
            if not isinstance(word, str) or not word.strip() or "\\" in word:
                raise DeploymentError(f"tiny model: extra_words holds {word!r}; give words without backslashes")

    @staticmethod
    def _check_integer(name: str, value: object, low: int, high: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise DeploymentError(f"tiny model: {name}={value!r} is not an integer")
        if not low <= value <= high:
            raise DeploymentError(f"tiny model: {name}={value} is outside {low}..{high}")

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layers."""
        return 3 * self.width

    @property
    def key(self) -> str:
        """Name of the model in the cache: sizes for people, a hash of everything for machines."""
        everything = {**asdict(self), "format": FORMAT_VERSION, "vocabulary": [*WORDS, *PIECES]}
        canonical = json.dumps(everything, sort_keys=True)
        return f"tiny-{self.layers}x{self.width}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path` as one GGUF file, whole or not at all.

        Raises
        ------
        EngineLoadError
            If the ``embedded`` extra is missing or the file cannot be written.
        """
        with _replacing(Path(path)) as temporary:
            write_weights(self, temporary)

    def cached_path(self) -> Path:
        """Path of the model in `cache_directory`, written first if it is not there or not whole.

        Processes may race: each writes a file of its own, the last rename wins, all are equal.
        """
        path = cache_directory() / f"{self.key}.gguf"
        seal = path.with_suffix(".blake2b")
        try:
            whole = seal.read_text() == _digest(path)
        except (OSError, UnicodeDecodeError):
            whole = False
        if not whole:
            self.write(path)
            with _replacing(seal) as temporary:
                temporary.write_text(_digest(path))
        return path


FAST = TinyModel(layers=8, width=512, heads=8)
"""The replica on the good card."""

SLOW = TinyModel(layers=20, width=512, heads=8)
"""The replica on the cheap card."""


def cache_directory() -> Path:
    """Where models are kept: ``$XDG_CACHE_HOME/dask-fmware`` or ``~/.cache/dask-fmware``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "dask-fmware"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` that takes its place if the block succeeds.

    Readers and other writers see the old whole file or the new one, never a part.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise EngineLoadError(
            f"tiny model: cannot write '{target}' ({error.strerror or error}); free the disk or set XDG_CACHE_HOME"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
