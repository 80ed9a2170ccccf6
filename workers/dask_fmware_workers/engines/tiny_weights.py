"""The weights and the tokenizer of a tiny model, drawn at random and written as a GGUF file.

How random weights give words rather than noise: dimension 0 of the residual stream holds a constant
that no layer reads or writes, so after the last norm it is the same number at every position, and
column 0 of the output matrix acts as a bias for each token. That bias favours words, forbids control
tokens and raw bytes, and is solved for the wanted `end_probability`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dask_fmware.errors import EngineLoadError
from dask_fmware_workers.engines.words import PIECES, WORDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dask_fmware_workers.engines.tiny_gguf import TinyModel

__all__ = ["BLOCK", "write_weights"]

BLOCK = 32  # weights that share a scale in GGUF's Q4_0 and Q8_0
CONTROL = ("<|unknown|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
END_ID = CONTROL.index("<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONSTANT = 4.0  # dimension 0, in units of sqrt(width): dwarfs what layers add, so the norm leaves it in peace
LOGIT_SPREAD = 2.0  # standard deviation of a word's logit over contexts: how much the prompt matters
NEVER = -40.0  # bias of tokens that are only generated when a grammar leaves nothing else
RARELY = -16.0
TOP_K, TOP_P, MIN_P, TEMPERATURE = 40, 0.95, 0.05, 0.8  # llama.cpp's default sampling


def write_weights(model: TinyModel, path: Path) -> None:
    """Write the file of a model.

    Raises
    ------
    EngineLoadError
        If the ``embedded`` extra is missing.
    """
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
    writer.add_token_types([control if index < len(CONTROL) else normal for index in range(len(tokens))])
    writer.add_unk_token_id(0)
    writer.add_eos_token_id(END_ID)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, rows: int, columns: int, spread: float, *, reads: bool) -> None:
        blocks = _random_q4_0(rng, rows, columns, spread)
        if reads:
            blocks[:, 0, 2] = blocks[:, 0, 2] & 0xF0 | 8  # ignores dimension 0: an 8 in the low half is zero
        else:
            blocks[0, :, 2:] = 0x88  # adds nothing to dimension 0
        q4_0 = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=q4_0)

    embedding = rng.standard_normal((len(tokens), width), dtype=np.float32)
    embedding[:, 0] = CONSTANT * width**0.5
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    ones = np.ones(width, dtype=np.float32)
    # A block reads a normed stream whose entries are about 1 / CONSTANT, and all blocks together add
    # about as much variance as the embedding has: the context then matters as much as the last token.
    reading, writing = CONSTANT / width**0.5, (2 * model.layers) ** -0.5
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


def _vocabulary(model: TinyModel) -> tuple[list[str], NDArray[np.float32]]:
    """Tokens in GGUF's "rwkv" notation and the bias of each; ids are positions.

    That tokenizer takes the longest token that matches, byte for byte: words need no merge table, and
    the 256 single bytes make every text encodable and every output decodable.
    """
    import numpy as np

    words = dict.fromkeys((*WORDS, *(word.strip() for word in model.extra_words)))
    common = [1.0 - 0.35 * float(np.log1p(rank)) for rank in range(len(words))]  # flatter than Zipf: more variety
    bias: dict[str, float] = dict.fromkeys(CONTROL, NEVER)
    bias |= {_byte_token(value): RARELY for value in range(256)}
    bias |= dict(zip((f" {word}" for word in words), common, strict=True))
    bias |= {".": 0.5, ",": 0.5, '"': 0.8}  # a quote now and then, so that a JSON string ends
    bias |= {" ": NEVER, "\\x09": NEVER, "\\x0a": NEVER, "\\x0d": NEVER}  # a schema permits spaces without end
    spellings = (*words, *(word.capitalize() for word in words), *(f" {word.capitalize()}" for word in words), *PIECES)
    for token in spellings:
        bias.setdefault(token.replace("\n", "\\n"), RARELY if token.strip() else NEVER)
    return list(bias), np.array(list(bias.values()), dtype=np.float32)


def _byte_token(value: int) -> str:
    plain = 0x20 <= value < 0x7F and chr(value) != "\\"
    return chr(value) if plain else f"\\x{value:02x}"


def _random_q4_0(rng: np.random.Generator, rows: int, columns: int, spread: float) -> NDArray[np.uint8]:
    """Return weights of standard deviation `spread` as (rows, blocks, 18) bytes: an f16 scale, 32 halves of bytes.

    Drawing the quantised form saves the time and memory of quantising.
    """
    import numpy as np

    blocks = np.empty((rows, columns // BLOCK, 2 + BLOCK // 2), dtype=np.uint8)
    # 1..15 stand for -7..7. A draw that includes -8 has a mean, and a mean makes all contexts alike after a few layers.
    halves = rng.integers(1, 16, size=(2, rows, columns // BLOCK, BLOCK // 2), dtype=np.uint8)
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
    root_mean_square = (CONSTANT**2 + 2.0) ** 0.5
    constant, rest = CONSTANT * width**0.5 / root_mean_square, 2.0**0.5 / root_mean_square
    output: NDArray[np.float32] = rng.standard_normal((len(bias), width), dtype=np.float32)
    output *= np.float32(LOGIT_SPREAD / (rest * width**0.5))
    output[:, 0] = bias / constant
    if end_probability > 0.0:
        contexts = rng.standard_normal((256, width), dtype=np.float32) * rest
        contexts[:, 0] = constant
        logits = contexts @ output.T
        unbiased_end = logits[:, END_ID] - bias[END_ID]
        logits[:, END_ID] = -np.inf
        rivals = -np.sort(-np.partition(logits, -TOP_K, axis=1)[:, -TOP_K:], axis=1)
        low, high = -20.0, 20.0
        for _ in range(30):
            middle = (low + high) / 2
            too_rare = _end_share(rivals, unbiased_end + middle) < end_probability
            low, high = (middle, high) if too_rare else (low, middle)
        output[END_ID, 0] = low / constant
    return output


def _end_share(rivals: NDArray[np.float32], end: NDArray[np.float32]) -> float:
    """Mean probability of the end token under llama.cpp's default sampling.

    `rivals` holds the best logits of the other tokens in falling order, `end` that of the end token.
    """
    import numpy as np

    logits = np.concatenate([rivals, end[:, None]], axis=1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    ahead = np.where(rivals > end[:, None], odds[:, :-1], 0.0)  # rivals that top-k and top-p keep before the end token
    kept = (ahead > 0).sum(axis=1) < TOP_K
    kept &= ahead.sum(axis=1) < TOP_P * odds.sum(axis=1)
    kept &= odds[:, -1] >= MIN_P
    rivals_before = np.cumsum(odds[:, :-1], axis=1) - odds[:, :-1]
    rival_kept = (rivals_before < TOP_P * odds.sum(axis=1, keepdims=True)) & (odds[:, :-1] >= MIN_P)
    tempered = odds ** (1 / TEMPERATURE)
    others = np.where(rival_kept, tempered[:, :-1], 0.0).sum(axis=1)
    ends = np.where(kept, tempered[:, -1], 0.0)
    return float((ends / (ends + others)).mean())
