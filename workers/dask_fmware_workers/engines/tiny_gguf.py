"""Small random llama models, written as GGUF files on this machine.

A tiny model makes the embedded engine real (real tokens, real caches, real queues) without a
download: the file is written once into a cache directory from nothing but its parameters. Its answers
are a salad of English words, never an answer; where a label or a document is needed, constrain the
output. This module owns the weights, the tokenizer and the cache; it knows nothing of engines.

How random weights give words rather than noise: dimension 0 of the residual stream holds a constant
that no layer reads or writes, so after the last norm it is the same number at every position, and
column 0 of the output matrix acts as a bias for each token. That bias favours words, forbids control
tokens and raw bytes, and is solved for the wanted `end_probability`.

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
from typing import TYPE_CHECKING

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware_workers.engines.words import PIECES, WORDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FAST", "FORMAT_VERSION", "SLOW", "TinyModel", "cache_directory"]

FORMAT_VERSION = 2
"""Part of the cache key: raise it when equal parameters give another file."""

_BLOCK = 32  # weights that share a scale in GGUF's Q4_0 and Q8_0
_CONTROL = ("<|unknown|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_END_ID = _CONTROL.index("<|end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONSTANT = 4.0  # dimension 0, in units of sqrt(width): dwarfs what layers add, so the norm leaves it in peace
_LOGIT_SPREAD = 2.0  # standard deviation of a word's logit over contexts: how much the prompt matters
_NEVER = -40.0  # bias of tokens that are only generated when a grammar leaves nothing else
_RARELY = -16.0
_TOP_K, _TOP_P, _MIN_P, _TEMPERATURE = 40, 0.95, 0.05, 0.8  # llama.cpp's default sampling


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
        if self.width % _BLOCK or self.width % (2 * self.heads):
            raise DeploymentError(
                f"tiny model: width={self.width} must be a multiple of {_BLOCK} and of twice heads={self.heads}"
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
            _write(self, temporary)

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


def _vocabulary(model: TinyModel) -> tuple[list[str], NDArray[np.float32]]:
    """Tokens in GGUF's "rwkv" notation and the bias of each; ids are positions.

    That tokenizer takes the longest token that matches, byte for byte: words need no merge table, and
    the 256 single bytes make every text encodable and every output decodable.
    """
    import numpy as np

    words = dict.fromkeys((*WORDS, *(word.strip() for word in model.extra_words)))
    common = [1.0 - 0.35 * float(np.log1p(rank)) for rank in range(len(words))]  # flatter than Zipf: more variety
    bias: dict[str, float] = dict.fromkeys(_CONTROL, _NEVER)
    bias |= {_byte_token(value): _RARELY for value in range(256)}
    bias |= dict(zip((f" {word}" for word in words), common, strict=True))
    bias |= {".": 0.5, ",": 0.5, '"': 0.8}  # a quote now and then, so that a JSON string ends
    bias |= {" ": _NEVER, "\\x09": _NEVER, "\\x0a": _NEVER, "\\x0d": _NEVER}  # a schema permits spaces without end
    spellings = (*words, *(word.capitalize() for word in words), *(f" {word.capitalize()}" for word in words), *PIECES)
    for token in spellings:
        bias.setdefault(token.replace("\n", "\\n"), _RARELY if token.strip() else _NEVER)
    return list(bias), np.array(list(bias.values()), dtype=np.float32)


def _byte_token(value: int) -> str:
    plain = 0x20 <= value < 0x7F and chr(value) != "\\"
    return chr(value) if plain else f"\\x{value:02x}"


def _write(model: TinyModel, path: Path) -> None:
    try:
        import gguf
        import numpy as np
    except ImportError as error:
        raise EngineLoadError(
            f"tiny model: writing one needs '{error.name}'; pip install \"dask-fmware[embedded]\""
        ) from error

    rng = np.random.default_rng(model.seed)
    tokens, bias = _vocabulary(model)
    width, feed_forward = model.width, model.feed_forward

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(model.key)
    writer.add_context_length(model.context_tokens)
    writer.add_embedding_length(width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // model.heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if index < len(_CONTROL) else normal for index in range(len(tokens))])
    writer.add_unk_token_id(0)
    writer.add_eos_token_id(_END_ID)
    writer.add_chat_template(_CHAT_TEMPLATE)

    def add(name: str, rows: int, columns: int, spread: float, *, reads: bool) -> None:
        blocks = _random_q4_0(rng, rows, columns, spread)
        if reads:
            blocks[:, 0, 2] = blocks[:, 0, 2] & 0xF0 | 8  # ignores dimension 0: an 8 in the low half is zero
        else:
            blocks[0, :, 2:] = 0x88  # adds nothing to dimension 0
        q4_0 = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=q4_0)

    embedding = rng.standard_normal((len(tokens), width), dtype=np.float32)
    embedding[:, 0] = _CONSTANT * width**0.5
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    ones = np.ones(width, dtype=np.float32)
    # A block reads a normed stream whose entries are about 1 / _CONSTANT, and all blocks together add
    # about as much variance as the embedding has: the context then matters as much as the last token.
    reading, writing = _CONSTANT / width**0.5, (2 * model.layers) ** -0.5
    for layer in range(model.layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", ones)
        for part in ("attn_q", "attn_k", "attn_v"):
            add(f"{block}.{part}.weight", width, width, reading, reads=True)
        add(f"{block}.attn_output.weight", width, width, writing / width**0.5, reads=False)
        writer.add_tensor(f"{block}.ffn_norm.weight", ones)
        for part in ("ffn_gate", "ffn_up"):
            add(f"{block}.{part}.weight", feed_forward, width, reading, reads=True)
        add(f"{block}.ffn_down.weight", width, feed_forward, writing / feed_forward**0.5, reads=False)
    writer.add_tensor("output_norm.weight", ones)
    output = _output_matrix(rng, bias, width, model.end_probability)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("output.weight", gguf.quants.quantize(output, q8_0), raw_dtype=q8_0)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random_q4_0(rng: np.random.Generator, rows: int, columns: int, spread: float) -> NDArray[np.uint8]:
    """Return weights of standard deviation `spread` as (rows, blocks, 18) bytes: an f16 scale, 32 halves of bytes.

    Drawing the quantised form saves the time and memory of quantising.
    """
    import numpy as np

    blocks = np.empty((rows, columns // _BLOCK, 2 + _BLOCK // 2), dtype=np.uint8)
    # 1..15 stand for -7..7. A draw that includes -8 has a mean, and a mean makes all contexts alike after a few layers.
    halves = rng.integers(1, 16, size=(2, rows, columns // _BLOCK, _BLOCK // 2), dtype=np.uint8)
    blocks[:, :, 2:] = halves[0] | halves[1] << 4
    scale = np.float16(spread / 4.32)  # the root mean square of a uniform draw from -7..7
    blocks[:, :, :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    return blocks


def _output_matrix(
    rng: np.random.Generator, bias: NDArray[np.float32], width: int, end_probability: float
) -> NDArray[np.float32]:
    """Return the output matrix whose column 0 yields `bias`, that of the end token solved by bisection."""
    import numpy as np

    # The stream before the last norm: dimension 0 is constant, the rest has a variance of about 2.
    root_mean_square = (_CONSTANT**2 + 2.0) ** 0.5
    constant, rest = _CONSTANT * width**0.5 / root_mean_square, 2.0**0.5 / root_mean_square
    output: NDArray[np.float32] = rng.standard_normal((len(bias), width), dtype=np.float32)
    output *= np.float32(_LOGIT_SPREAD / (rest * width**0.5))
    output[:, 0] = bias / constant
    if end_probability > 0.0:
        contexts = rng.standard_normal((256, width), dtype=np.float32) * rest
        contexts[:, 0] = constant
        logits = contexts @ output.T
        unbiased_end = logits[:, _END_ID] - bias[_END_ID]
        logits[:, _END_ID] = -np.inf
        rivals = -np.sort(-np.partition(logits, -_TOP_K, axis=1)[:, -_TOP_K:], axis=1)
        low, high = -20.0, 20.0
        for _ in range(30):
            middle = (low + high) / 2
            too_rare = _end_share(rivals, unbiased_end + middle) < end_probability
            low, high = (middle, high) if too_rare else (low, middle)
        output[_END_ID, 0] = low / constant
    return output


def _end_share(rivals: NDArray[np.float32], end: NDArray[np.float32]) -> float:
    """Mean probability of the end token under llama.cpp's default sampling.

    `rivals` holds the best logits of the other tokens in falling order, `end` that of the end token.
    """
    import numpy as np

    logits = np.concatenate([rivals, end[:, None]], axis=1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    ahead = np.where(rivals > end[:, None], odds[:, :-1], 0.0)  # rivals that top-k and top-p keep before the end token
    kept = (ahead > 0).sum(axis=1) < _TOP_K
    kept &= ahead.sum(axis=1) < _TOP_P * odds.sum(axis=1)
    kept &= odds[:, -1] >= _MIN_P
    rivals_before = np.cumsum(odds[:, :-1], axis=1) - odds[:, :-1]
    rival_kept = (rivals_before < _TOP_P * odds.sum(axis=1, keepdims=True)) & (odds[:, :-1] >= _MIN_P)
    tempered = odds ** (1 / _TEMPERATURE)
    others = np.where(rival_kept, tempered[:, :-1], 0.0).sum(axis=1)
    ends = np.where(kept, tempered[:, -1], 0.0)
    return float((ends / (ends + others)).mean())
