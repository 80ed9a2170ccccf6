"""What is particular to the embedded engine: arguments, loading, quiet, cores, real output lengths."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import ContextOverflowError, DeploymentError, EngineLoadError, FMwareError
from dask_fmware.model.engine import Message, Request, Sampling
from dask_fmware.testing.asking import WAIT_S, ask, collect, native_threads, text_of
from dask_fmware_workers.accelerators import Card
from dask_fmware_workers.engines import llama_setup
from dask_fmware_workers.engines.llama_cpp import LlamaCppEngine
from dask_fmware_workers.engines.llama_server import LlamaServer
from dask_fmware_workers.engines.llama_setup import LlamaSetup
from dask_fmware_workers.engines.tiny_gguf import TinyModel

pytest.importorskip("xllamacpp")

SMALL = TinyModel(layers=1, width=64, heads=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of 'gguf'"),
        ({"gguf": "a.gguf", "tiny": {}}, "exactly one of 'gguf'"),
        ({"tiny": {"layer": 2}}, "it takes layers, width"),
        ({"tiny": {"layers": 0}}, "layers=0"),
        ({"tiny": 5}, "tiny=5"),
        ({"tiny": SMALL, "slots": 0}, "slots=0"),
        ({"tiny": SMALL, "slots": "4"}, "slots='4'"),
        ({"tiny": SMALL, "context_tokens": 1}, "context_tokens=1"),
        ({"tiny": SMALL, "threads": 0}, "threads=0"),
        ({"tiny": SMALL, "cores": []}, "cores"),
        ({"tiny": SMALL, "cores": 3}, "cores=3"),
        ({"tiny": SMALL, "cores": [0, 0]}, "cores"),
        ({"tiny": SMALL, "cores": [0], "threads": 2}, "2 or more"),
        ({"tiny": SMALL, "cores": [-1]}, "cores=-1"),
        ({"tiny": SMALL, "gpu_layers": -2}, "gpu_layers=-2"),
        ({"tiny": SMALL, "seed": 1.5}, "seed=1.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        LlamaCppEngine(**arguments)


async def refused(engine: LlamaCppEngine, kind: type[FMwareError] = EngineLoadError) -> str:
    """Why an engine does not start; it must be closable and refuse again afterwards."""
    with pytest.raises(kind) as caught:
        await engine.start()
    with pytest.raises(kind):
        await engine.start()
    await engine.close()
    return str(caught.value)


async def test_a_missing_file_is_named_with_the_next_step(tmp_path: Path) -> None:
    engine = LlamaCppEngine(gguf=tmp_path / "nowhere.gguf")
    for _ in range(2):
        with pytest.raises(DeploymentError, match=r"nowhere\.gguf' does not exist on this worker; correct the path"):
            await engine.start()
    await engine.close()


@pytest.mark.engine
async def test_an_architecture_that_llama_cpp_does_not_know_is_named(tmp_path: Path) -> None:
    data, path = SMALL.cached_path().read_bytes(), tmp_path / "model.gguf"
    path.write_bytes(data.replace(b"llama", b"lxama"))
    assert "architecture 'lxama'" in await refused(LlamaCppEngine(gguf=path), DeploymentError)


@pytest.mark.parametrize("damage", ["empty", "text", "header", "weights", "directory", "version"])
@pytest.mark.engine
async def test_a_damaged_file_is_refused_not_served(tmp_path: Path, damage: str) -> None:
    data, path = SMALL.cached_path().read_bytes(), tmp_path / "model.gguf"
    match damage:
        case "directory":
            path.mkdir()
        case "version":
            path.write_bytes(data[:4] + b"\x63" + data[5:])
        case _:
            sizes = {"empty": 0, "text": 0, "header": 1000, "weights": len(data) * 3 // 4}
            path.write_bytes(data[: sizes[damage]] or (b"<html>" if damage == "text" else b""))
    assert str(path) in await refused(LlamaCppEngine(gguf=path), DeploymentError)


@pytest.mark.engine
async def test_a_sound_file_that_is_refused_may_be_taken_later(monkeypatch: pytest.MonkeyPatch) -> None:
    load = LlamaSetup._loaded

    def out_of_memory(self: LlamaSetup, path: Path, slots: int, context_tokens: int, gpu_layers: int) -> Any:
        if slots > 1:
            raise RuntimeError("failed to allocate")
        return load(self, path, slots, context_tokens, gpu_layers)

    monkeypatch.setattr(LlamaSetup, "_loaded", out_of_memory)
    assert "need more memory than there is" in await refused(LlamaCppEngine(tiny=SMALL))


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert 'pip install "dask-fmware[embedded]"' in await refused(LlamaCppEngine(tiny=SMALL))


async def test_a_context_beyond_the_models_is_refused() -> None:
    small = TinyModel(layers=1, width=64, heads=2, context_tokens=512)
    message = await refused(LlamaCppEngine(tiny=small, context_tokens=1024), DeploymentError)
    assert "1024" in message
    assert "512" in message


async def test_cores_that_are_not_there_are_refused() -> None:
    assert "4000" in await refused(LlamaCppEngine(tiny=SMALL, cores=[4000]))


@pytest.mark.engine
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the platform does not pin threads")
async def test_a_replica_stays_on_its_cores_and_leaves_the_others_alone() -> None:
    core = max(os.sched_getaffinity(0))
    before, own = native_threads(), os.sched_getaffinity(0)
    engine = LlamaCppEngine(tiny=SMALL, cores=[core], context_tokens=256)
    await engine.start()
    try:
        await collect(engine, ask(max_tokens=3))
        pinned = [thread for thread in native_threads() - before if os.sched_getaffinity(int(thread)) == {core}]
    finally:
        await engine.close()
    assert pinned
    assert os.sched_getaffinity(0) == own


@pytest.mark.engine
async def test_it_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    engine = LlamaCppEngine(tiny=SMALL, context_tokens=256)
    await engine.start()
    await collect(engine, ask())
    await engine.close()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def listening_ports() -> set[str]:
    """Inodes of the TCP sockets on which this process listens."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines() for name in ("tcp", "tcp6")]
    inodes = {line.split()[9] for table in tables for line in table if line.split()[3] == "0A"}  # TCP_LISTEN
    mine = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    return {inode for inode in inodes if f"socket:[{inode}]" in mine}


@pytest.mark.engine
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
async def test_no_port_is_opened_and_the_private_socket_goes_away(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = listening_ports()
    engine = LlamaCppEngine(tiny=SMALL, context_tokens=256)
    await engine.start()
    (directory,) = os.listdir(tmp_path)
    assert os.stat(tmp_path / directory).st_mode & 0o077 == 0
    assert listening_ports() == before
    await engine.close()
    assert not os.listdir(tmp_path)


async def test_a_prompt_that_fits_with_no_tokens_there_are_is_refused_before_it_is_cut_into_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = LlamaCppEngine(tiny=SMALL, context_tokens=256)
    await engine.start()
    try:
        monkeypatch.setattr(LlamaServer, "tokenize", lambda *_: pytest.fail("it is cut into tokens"))
        for asked in ({"prompt": "a" * 10**6}, {"messages": (Message("user", "a" * 10**6),)}):
            with pytest.raises(ContextOverflowError, match=r"needs at least \d+ prompt tokens"):
                await collect(engine, ask(**asked))
    finally:
        await engine.close()


async def test_the_model_is_not_freed_while_a_text_is_cut_into_tokens_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llama.cpp would wait for that text, which could not go on, as the interpreter would be held meanwhile."""
    began, may_end, done = threading.Event(), threading.Event(), list[str]()
    close = LlamaServer.close

    def tokenize(server: LlamaServer, prompt: str) -> list[int]:
        began.set()
        assert may_end.wait(WAIT_S)
        done.append("a text was cut")
        return [1]

    def noted(server: LlamaServer) -> None:
        done.append("the model was freed")
        close(server)

    engine = LlamaCppEngine(tiny=SMALL, context_tokens=64, embeds=True)
    await engine.start()
    monkeypatch.setattr(LlamaServer, "tokenize", tokenize)
    monkeypatch.setattr(LlamaServer, "close", noted)
    asked = asyncio.ensure_future(collect(engine, Request("r", 1, texts=("a", "b", "c"))))
    await asyncio.to_thread(began.wait, WAIT_S)
    asked.cancel()
    await asyncio.wait([asked])
    closed = asyncio.ensure_future(engine.close())
    await asyncio.to_thread(may_end.wait, 0.1)  # it may come to the model, if it does not wait
    assert done == []
    may_end.set()
    await asyncio.wait_for(closed, WAIT_S)
    assert done == ["a text was cut", "the model was freed"]


@pytest.mark.engine
async def test_end_probability_ends_some_texts_early() -> None:
    chatty = TinyModel(layers=1, width=64, heads=2, end_probability=0.05)
    engine = LlamaCppEngine(tiny=chatty, context_tokens=512)
    await engine.start()
    try:
        streams = await asyncio.gather(
            *(collect(engine, ask(f"r{seed}", 100, sampling=Sampling(seed=seed))) for seed in range(20))
        )
    finally:
        await engine.close()
    lengths = [deltas[-1].usage.output_tokens for deltas in streams]
    assert {deltas[-1].finish_reason for deltas in streams} >= {"stop"}
    assert 5 <= sum(lengths) / len(lengths) <= 60  # the mean of the geometric distribution is 20
    assert all(text_of(deltas).isascii() for deltas in streams)


@pytest.mark.engine
async def test_requests_without_a_seed_differ_but_the_engines_seed_repeats_them() -> None:
    async def texts(seed: int) -> list[str]:
        engine = LlamaCppEngine(tiny=SMALL, context_tokens=256, seed=seed)
        await engine.start()
        try:
            return [text_of(await collect(engine, ask(f"r{i}", sampling=Sampling()))) for i in range(2)]
        finally:
            await engine.close()

    first, again, other = await texts(1), await texts(1), await texts(2)
    assert first == again
    assert len({*first, *other}) == 4


@pytest.mark.engine
async def test_two_replicas_serve_in_one_process() -> None:
    engines = [LlamaCppEngine(tiny=SMALL, context_tokens=256) for _ in range(2)]
    await asyncio.gather(*(engine.start() for engine in engines))
    try:
        streams = await asyncio.gather(*(collect(engine, ask()) for engine in engines))
        await engines[0].close()
        assert (await collect(engines[1], ask("after")))[-1].finish_reason == "length"
    finally:
        await asyncio.gather(*(engine.close() for engine in engines))
    assert text_of(streams[0]) == text_of(streams[1])


@pytest.mark.engine
def test_an_engine_that_is_never_closed_does_not_keep_the_process() -> None:
    code = """
import asyncio
from dask_fmware.model.engine import Request
from dask_fmware_workers.engines.llama_cpp import LlamaCppEngine

async def main():
    engine = LlamaCppEngine(tiny={"layers": 1, "width": 64, "heads": 2})
    await engine.start()
    async for _ in engine.generate(Request("r", 1500, prompt="hello")):
        return

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = Card("cpu", "CPU", free_bytes=1_000_000, cores=(0,))
    monkeypatch.setattr(llama_setup, "cpu_card", lambda cores: small)
    engine = LlamaCppEngine(tiny=SMALL, slots=64, context_tokens=2048)
    with pytest.raises(EngineLoadError, match=r"needs .*for 64 slots of 2048 tokens\) and CPU \(cores 0\) has"):
        await engine.start()
    await engine.close()
    monkeypatch.setattr(llama_setup, "nvidia_cards", lambda: [Card("nvidia", "L4", free_bytes=500_000)])
    engine = LlamaCppEngine(tiny=SMALL, gpu_layers=-1)
    with pytest.raises(EngineLoadError, match=r"and L4 #0 has 0\.00 GiB free"):
        await engine.start()
    await engine.close()


CLOSE_AT_ONCE = """
import sys
import threading
from pathlib import Path
from dask_fmware_workers.engines.llama_server import LlamaServer
for _ in range(40):
    LlamaServer(
        Path(sys.argv[1]), slots=1, context_tokens=8, threads=1, cores=None, gpu_layers=0, verbose=False
    ).close()
"""


def test_a_server_that_is_closed_at_once_ends() -> None:
    """In a process of its own, which hung with the interpreter in its hands."""
    path = SMALL.cached_path()
    subprocess.run([sys.executable, "-c", CLOSE_AT_ONCE, str(path)], check=True, timeout=100)
