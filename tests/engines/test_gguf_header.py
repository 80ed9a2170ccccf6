"""Headers of GGUF files, sound and not."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware_workers.accelerators import Card
from dask_fmware_workers.engines import llama_setup
from dask_fmware_workers.engines.gguf_header import GgufHeader, model_parts, read_header
from dask_fmware_workers.engines.llama_setup import LlamaSetup
from dask_fmware_workers.engines.tiny_gguf import TinyModel
from tests.engines.tiny_bert import write_tiny_bert

pytest.importorskip("gguf")


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(name: str, kind: int, data: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + data


def header(tokenizer: str, tokens: list[str], *more: bytes) -> bytes:
    """A GGUF file without weights."""
    entries = [
        entry("general.architecture", 8, text("llama")),
        entry("llama.context_length", 4, struct.pack("<I", 4096)),
        entry("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        entry("tokenizer.ggml.scores", 9, struct.pack("<IQ3f", 6, 3, 0, 1, 2)),
        entry("tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, 1) + text("a b")),
        entry("tokenizer.ggml.model", 8, text(tokenizer)),
        entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, len(tokens)) + b"".join(map(text, tokens))),
        *more,
    ]
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries)) + b"".join(entries)


@pytest.mark.parametrize(
    ("tokenizer", "tokens", "longest"),
    [
        ("gpt2", ["a", "Ġhello"], 6),  # each character is a byte
        ("llama", ["<s>", "▁hello"], 6),  # the mark is a space
        ("rwkv", ["a", "hello"], 5),
        ("llama", [], 16),  # unknown: a safe guess
    ],
)
def test_the_longest_token_is_measured_in_bytes_of_text(
    tmp_path: Path, tokenizer: str, tokens: list[str], longest: int
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(tokenizer, tokens))
    found = read_header(path)
    assert found.longest_token_bytes == longest
    assert found.trained_context_tokens == 4096
    assert "tokenizer.ggml.merges" not in found.values


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole, path = header("llama", ["a", "b"]), tmp_path / "model.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DeploymentError, match=r"model\.gguf"):
            read_header(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_a_wrong_byte_never_escapes_as_another_error(tmp_path: Path, position: int, value: int) -> None:
    data, path = bytearray(header("llama", ["a", "b"])), tmp_path / "model.gguf"
    data[position % len(data)] = value
    path.write_bytes(data)
    with suppress(DeploymentError):  # anything else fails the test
        read_header(path)


def test_the_kv_cache_of_a_token_follows_from_the_shape() -> None:
    shape = {"general.architecture": "llama", "llama.block_count": 32, "llama.embedding_length": 4096}
    heads = {"llama.attention.head_count": 32, "llama.attention.head_count_kv": 8}
    assert GgufHeader(shape | heads).kv_bytes_per_token == 131072  # 128 KiB of Llama 3 8B
    assert GgufHeader(shape | heads | {"llama.attention.key_length": 256}).kv_bytes_per_token == 196608
    assert GgufHeader(shape).kv_bytes_per_token is None
    assert GgufHeader({}).kv_bytes_per_token is None


LLAMA = {"general.architecture": "llama", "llama.block_count": 32, "llama.embedding_length": 4096}
HEADS = {"llama.attention.head_count": 32, "llama.attention.head_count_kv": 8}


def test_layers_without_a_cache_of_their_own_take_no_part_in_it(tmp_path: Path) -> None:
    cached = [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0]  # of LFM2 1.2B: the others are convolutions
    entries = [
        entry("general.architecture", 8, text("lfm2")),
        entry("lfm2.block_count", 4, struct.pack("<I", 16)),
        entry("lfm2.embedding_length", 4, struct.pack("<I", 2048)),
        entry("lfm2.attention.head_count", 4, struct.pack("<I", 32)),
        entry("lfm2.attention.head_count_kv", 9, struct.pack("<IQ16i", 5, 16, *cached)),
    ]
    path = tmp_path / "lfm2.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries)) + b"".join(entries))
    assert read_header(path).kv_bytes_per_token == 6 * 8 * 64 * 2 * 2


def test_heads_of_each_layer_need_a_stated_width_and_a_number_for_each_layer() -> None:
    each = {"llama.attention.head_count": [32] * 32, "llama.attention.head_count_kv": [4] * 16 + [8] * 16}
    wide = {"llama.attention.key_length": 128, "llama.attention.value_length": 128}
    assert GgufHeader(LLAMA | each | wide).kv_bytes_per_token == 98304
    assert GgufHeader(LLAMA | each).kv_bytes_per_token is None
    assert GgufHeader(LLAMA | HEADS | {"llama.attention.head_count_kv": [8]}).kv_bytes_per_token is None


@pytest.mark.parametrize(
    "more",
    [
        {"llama.attention.sliding_window": 1024},
        {"llama.ssm.state_size": 128},
        {"llama.attention.kv_lora_rank": 512},
        {"llama.attention.head_count_kv": 0},
    ],
)
def test_a_cache_that_does_not_grow_by_the_token_is_not_stated(more: dict[str, int]) -> None:
    assert GgufHeader(LLAMA | HEADS | more).kv_bytes_per_token is None


def test_gemma_2_has_a_window_also_where_its_file_is_silent() -> None:
    gemma = {name.replace("llama", "gemma2"): value for name, value in (LLAMA | HEADS).items()}
    assert GgufHeader({**gemma, "general.architecture": "gemma2"}).kv_bytes_per_token is None
    assert GgufHeader(LLAMA | HEADS | {"llama.attention.sliding_window": 0}).kv_bytes_per_token == 131072


# -- models in several files ---------------------------------------------------------------------


def split(directory: Path, count: int, weight_bytes: int = 0) -> list[Path]:
    """A model in so many files, as llama.cpp's own tool splits it: each says which one it is."""
    paths = [directory / f"m-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    for number, path in enumerate(paths):
        place = [entry(f"split.{name}", 2, struct.pack("<H", n)) for name, n in (("no", number), ("count", count))]
        path.write_bytes(header("llama", ["a"], *place) + bytes(weight_bytes))
    return paths


def load(path: Path) -> Any:
    """Look at a model as an engine does before it loads it."""
    return LlamaSetup(
        gguf=path, tiny=None, slots=1, context_tokens=64, threads=1, cores=None, gpu_layers=0, verbose=False
    ).load()


def test_the_files_of_a_split_model_are_found_by_their_names(tmp_path: Path) -> None:
    paths = split(tmp_path, 3)
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"another model")
    assert [model_parts(path) for path in paths] == [paths] * 3
    assert read_header(paths[1]).parts == (1, 3)
    alone = tmp_path / "m.gguf"
    alone.write_bytes(header("llama", ["a"]))
    assert model_parts(alone) == [alone]
    assert read_header(alone).parts == (0, 1)


def test_a_split_model_is_named_by_its_first_file_and_all_are_there(tmp_path: Path) -> None:
    paths = split(tmp_path, 3)
    with pytest.raises(DeploymentError, match=r"is file 2 of the 3 of its model; name the first one"):
        load(paths[1])
    paths[2].unlink()
    with pytest.raises(DeploymentError, match=r"of the 3 files of the model of '.*00001-of-00003\.gguf' 2 are there"):
        load(paths[0])


def test_all_files_of_a_split_model_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = split(tmp_path, 3, weight_bytes=1 << 20)
    monkeypatch.setattr(llama_setup, "cpu_card", lambda cores: Card("cpu", "CPU", free_bytes=2 << 20, cores=(0,)))
    loaded: list[Path] = []
    monkeypatch.setattr(LlamaSetup, "_loaded", lambda self, path, *sizes: loaded.append(path))
    with pytest.raises(EngineLoadError, match=r"needs .* and CPU \(cores 0\) has"):
        load(paths[0])
    monkeypatch.setattr(llama_setup, "cpu_card", lambda cores: Card("cpu", "CPU", free_bytes=8 << 30, cores=(0,)))
    load(paths[0])
    assert loaded == [paths[0]]


def test_an_encoder_pools_and_keeps_nothing_of_a_text(tmp_path: Path) -> None:
    encoder = read_header(write_tiny_bert(tmp_path / "bert.gguf"))
    assert (encoder.pools, encoder.kv_bytes_per_token) == (True, 0.0)
    assert not read_header(TinyModel(layers=1, width=64, heads=2).cached_path()).pools
