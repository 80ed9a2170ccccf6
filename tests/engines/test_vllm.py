"""What is particular to vLLM: arguments, and child processes that end with their owner. The rest is conformance.

What needs vLLM runs in an environment of its own, which this command makes, with vLLM's build for CPUs::

    python -m benchmarks.conformance vllm
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import DeploymentError
from dask_fmware_workers.accelerators import Card
from dask_fmware_workers.engines import model_path, vllm_watch
from dask_fmware_workers.engines.model_path import check_cards
from dask_fmware_workers.engines.vllm import VllmEngine
from dask_fmware_workers.engines.vllm_backends import Processes

OWNER_SCRIPT = """
import asyncio, sys
from dask_fmware.model.engine import Request, Sampling
from dask_fmware_workers.engines.vllm import VllmEngine

async def main():
    options = {"enforce_eager": True, "block_size": 32}
    sized = {"dtype": "float32", "kv_cache_memory_bytes": 32 << 20}  # bf16 kernels need what not all CPUs have
    engine = VllmEngine(model=sys.argv[1], mode="processes", options=options, **sized)
    await engine.start()
    text = ""
    async for delta in engine.generate(Request("a", 8, prompt="Tell me", sampling=Sampling(seed=1))):
        text += delta.text
    assert delta.finish_reason == "length" and delta.usage.output_tokens == 8 and text
    print("serving", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "threads"}, "one_process, processes"),
        ({"slots": 0}, "slots=0"),
        ({"tensor_parallel": 2}, "needs mode 'processes'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        VllmEngine(model="m", **arguments)


async def test_a_daemonic_worker_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Daemon:
        daemon = True

    monkeypatch.setattr("multiprocessing.current_process", Daemon)
    with pytest.raises(DeploymentError, match=r"distributed\.worker\.daemon"):
        Processes(asyncio.get_running_loop(), {}).open()


def test_a_process_that_no_worker_started_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_watch.threading, "Thread", lambda **options: pytest.fail("it watches"))
    for owner in ("", "abc", str(os.getpid())):
        monkeypatch.setenv(vllm_watch.OWNER, owner)
        vllm_watch.end_with_owner()


@pytest.mark.vllm
@pytest.mark.engine
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "change", [{"architectures": ["Unheard"], "model_type": "unheard"}, {"max_position_embeddings": 64}]
)
async def test_what_vllm_can_never_serve_is_refused_for_good(change: dict[str, Any], tmp_path: Path) -> None:
    from tests.engines.tiny_llama import tiny_llama

    for file in tiny_llama().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    engine = VllmEngine(model=str(tmp_path))
    with pytest.raises(DeploymentError, match="cannot be served as it is deployed"):
        await engine.start()
    await engine.close()


@pytest.mark.parametrize("model", ["/nowhere/model", "./nowhere"])
async def test_a_path_that_is_not_there_is_refused_for_good(model: str) -> None:
    with pytest.raises(DeploymentError, match="does not exist on this worker"):
        await VllmEngine(model=model).start()


@pytest.mark.parametrize("seen", [1, 4])
def test_cards_that_are_not_there_are_refused_where_that_is_known(seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Card("nvidia", "L4", index=i) for i in range(seen)]
    monkeypatch.setattr(model_path, "nvidia_cards", lambda: cards)
    if seen < 2:
        with pytest.raises(DeploymentError, match=r"tensor_parallel=2 needs as many cards, and this worker sees 1"):
            check_cards(2, engine="vllm")
    else:
        check_cards(2, engine="vllm")


@pytest.mark.vllm
@pytest.mark.engine
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_no_child_outlives_an_owner_that_was_killed() -> None:
    import psutil

    from tests.engines.tiny_llama import tiny_llama

    owner = subprocess.Popen([sys.executable, "-c", OWNER_SCRIPT, str(tiny_llama())], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        assert any("serving" in line for line in owner.stdout)  # vLLM writes there too
        children = psutil.Process(owner.pid).children(recursive=True)
        assert children
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    deadline = time.monotonic() + 5
    while (alive := [child for child in children if _lives(child)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive


def _lives(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # dead, and nobody has asked yet
    except psutil.NoSuchProcess:
        return False
