"""Tiny models: equal parameters give equal files, the cache survives races, the tokenizer loses nothing."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware_workers.engines.gguf_header import read_header
from dask_fmware_workers.engines.tiny_gguf import FAST, SLOW, TinyModel, cache_directory
from dask_fmware_workers.engines.words import PIECES, WORDS

pytest.importorskip("gguf")

SMALL = TinyModel(layers=1, width=64, heads=2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dask-fmware"


def test_equal_parameters_give_equal_bytes(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "a.gguf")
    TinyModel(layers=1, width=64, heads=2).write(tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_every_parameter_changes_the_file_and_its_key(tmp_path: Path) -> None:
    variants = [
        SMALL,
        TinyModel(layers=2, width=64, heads=2),
        TinyModel(layers=1, width=128, heads=2),
        TinyModel(layers=1, width=64, heads=1),
        TinyModel(layers=1, width=64, heads=2, seed=1),
        TinyModel(layers=1, width=64, heads=2, context_tokens=512),
        TinyModel(layers=1, width=64, heads=2, end_probability=0.1),
        TinyModel(layers=1, width=64, heads=2, extra_words=("kubernetes",)),
    ]
    for number, model in enumerate(variants):
        model.write(tmp_path / f"{number}.gguf")
    files = {(tmp_path / f"{number}.gguf").read_bytes() for number in range(len(variants))}
    assert len(files) == len({model.key for model in variants}) == len(variants)


def test_the_cache_follows_xdg(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == cache
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_directory() == Path.home() / ".cache" / "dask-fmware"


def test_a_cached_model_is_written_once(cache: Path) -> None:
    path = SMALL.cached_path()
    inode = path.stat().st_ino
    assert SMALL.cached_path() == path
    assert path.stat().st_ino == inode
    assert sorted(entry.name for entry in cache.iterdir()) == sorted([path.name, f"{path.stem}.blake2b"])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _unseal(path: Path) -> None:
    path.with_suffix(".blake2b").unlink()


def _garble_seal(path: Path) -> None:
    path.with_suffix(".blake2b").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, _unseal, _garble_seal])
def test_a_damaged_entry_is_replaced(cache: Path, damage: Any) -> None:
    path = SMALL.cached_path()
    sound = path.read_bytes()
    damage(path)
    assert SMALL.cached_path().read_bytes() == sound


def test_writers_may_race(cache: Path) -> None:
    code = (
        "from dask_fmware_workers.engines.tiny_gguf import TinyModel;"
        "print(TinyModel(layers=1, width=64, heads=2).cached_path())"
    )
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: SMALL.cached_path(), range(3)))
    paths |= {Path(other.communicate(timeout=60)[0].strip()) for other in others}
    assert [other.returncode for other in others] == [0, 0]
    (path,) = paths
    read_header(path)
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".")]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dask_fmware_workers.engines.tiny_gguf.write_weights", full_disk)
    with pytest.raises(EngineLoadError, match=r"No space left.*XDG_CACHE_HOME"):
        SMALL.write(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(EngineLoadError, match=r'pip install "dask-fmware\[embedded\]"'):
        SMALL.write(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "layers=0"),
        ({"layers": True}, "layers=True"),
        ({"layers": 2.5}, "layers=2.5"),
        ({"width": 100}, "width=100"),
        ({"width": 128, "heads": 3}, "heads=3"),
        ({"seed": -1}, "seed=-1"),
        ({"context_tokens": 1}, "context_tokens=1"),
        ({"end_probability": 0.9}, "end_probability=0.9"),
        ({"extra_words": ["ok", " "]}, "extra_words"),
        ({"extra_words": "order"}, "give a list"),
        ({"extra_words": ["back\\slash"]}, "extra_words"),
    ],
)
def test_bad_parameters_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        TinyModel(**arguments)


def test_the_suggested_pair_differs_by_its_layers_only() -> None:
    assert (FAST.width, FAST.heads) == (SLOW.width, SLOW.heads)
    assert SLOW.layers == 2.5 * FAST.layers


@pytest.mark.engine
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(min_size=1, max_size=80),
        st.lists(st.sampled_from([*WORDS[:60], *PIECES, " ", "Hello", "\\n", "é"]), min_size=1).map("".join),
    )
)
def test_the_tokenizer_takes_the_longest_piece_and_loses_nothing(small_server: Any, text: str) -> None:
    vocabulary, server = small_server
    tokens = server.tokenize(text)
    assert b"".join(vocabulary[token] for token in tokens) == text.encode()
    assert len(tokens) == _greedy_length(text.encode(), set(vocabulary))


def _greedy_length(data: bytes, pieces: set[bytes]) -> int:
    """An oracle: longest match first, byte by byte."""
    longest = max(map(len, pieces))
    count = offset = 0
    while offset < len(data):
        offset += next(n for n in range(longest, 0, -1) if data[offset : offset + n] in pieces)
        count += 1
    return count


@pytest.fixture(scope="module")
def small_server() -> Any:
    pytest.importorskip("xllamacpp")
    from dask_fmware_workers.engines.llama_server import LlamaServer

    path = SMALL.cached_path()
    tokens = read_header(path).values["tokenizer.ggml.tokens"]
    vocabulary = [token.decode("unicode_escape").encode("latin-1") for token in tokens]
    server = LlamaServer(path, slots=1, context_tokens=256, threads=1, cores=None, gpu_layers=0, verbose=False)
    yield vocabulary, server
    server.close()


def test_english_costs_a_token_for_each_word_or_so() -> None:
    sentence = b"How do I scale a workflow with many model calls on a small cluster of workers?"
    model = TinyModel(layers=1, width=64, heads=2)
    tokens = read_header(model.cached_path()).values["tokenizer.ggml.tokens"]
    pieces = {token.decode("unicode_escape").encode("latin-1") for token in tokens}
    assert _greedy_length(sentence, pieces) < 1.5 * len(sentence.split())


def test_the_header_tells_what_the_engine_needs() -> None:
    header = read_header(SMALL.cached_path())
    assert header.trained_context_tokens == SMALL.context_tokens
    assert 8 <= header.longest_token_bytes <= 20
    assert header.values["tokenizer.ggml.model"] == "rwkv"
