"""What a replica says that cannot be served: in `fm.status`, with or without another try, and without secrets."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_workers import host
from dask_fmware_workers.accelerators import Card
from dask_fmware_workers.engines import llama_setup, vllm_server
from dask_fmware_workers.engines.tiny_gguf import TinyModel
from tests.cluster.flows import one
from tests.engines.openai_stub import Asked, Write, serving_http, whole

KEY = "sk-" + "very-secret" * 3
TINY = TinyModel(layers=1, width=64, heads=2)
HOPELESS, TRIED_AGAIN = False, True


def document(engine: str, **arguments: Any) -> dict[str, Any]:
    return {
        "accelerators": {"cpu": {"cards": 1}},
        "models": {"small": {"engine": engine, "context_tokens": 128, "arguments": arguments, "on": {"cpu": {}}}},
    }


async def failure(document: dict[str, Any], caplog: pytest.LogCaptureFixture) -> tuple[str, bool]:
    """Error of the replica that does not come, and whether it is tried again, as `fm.status` has them."""
    async with InProcessCluster(document, wait=False) as cluster:
        await cluster.until(lambda: cluster.router.service(Arrivals).failed, "the replica has failed")
        status = await fm.status(cluster.client)
        (failed,) = status["failed_replicas"]
        assert (failed["name"], failed["model"], failed["accelerator"]) == ("small-cpu-0", "small", "cpu")
        assert not status["replicas"]
        assert not status["failures"]
        loading = cluster.hosts["small-cpu-0"]._work
        assert loading.done() != failed["will_retry"], "what is hopeless is not loaded again and again"
        assert KEY not in f"{status} {caplog.text} {await cluster.client.get_events()}"
        return failed["error"], failed["will_retry"]


@pytest.mark.parametrize(
    ("case", "message", "will_retry"),
    [
        ("missing", r"'.*model\.gguf' does not exist on this worker; correct the path", HOPELESS),
        ("architecture", "of architecture 'lxama'.* this build does not know the architecture", HOPELESS),
        ("truncated header", "is not a whole GGUF file", HOPELESS),
        ("truncated weights", "either it is damaged or cut off", HOPELESS),
        ("memory", r"needs .* GiB \(weights .* \+ KV cache .*\) and .* has 0\.00 GiB free", TRIED_AGAIN),
    ],
)
@pytest.mark.engine
async def test_a_model_that_cannot_be_loaded(
    case: str, message: str, will_retry: bool, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    pytest.importorskip("xllamacpp")
    path, whole_file = tmp_path / "model.gguf", TINY.cached_path().read_bytes()
    match case:
        case "architecture":
            path.write_bytes(whole_file.replace(b"llama", b"lxama"))
        case "truncated header":
            path.write_bytes(whole_file[:1000])
        case "truncated weights":
            path.write_bytes(whole_file[: len(whole_file) * 3 // 4])
        case "memory":
            path.write_bytes(whole_file)
            monkeypatch.setattr(llama_setup, "cpu_card", lambda cores: Card("cpu", "CPU", free_bytes=1000, cores=(0,)))
    error, again = await failure(document("llama.cpp", gguf=str(path)), caplog)
    assert re.search(message, error), error
    assert again == will_retry


async def test_a_model_directory_that_is_not_there(tmp_path: Path, caplog: Any) -> None:
    error, again = await failure(document("vllm-serve", model=str(tmp_path / "none")), caplog)
    assert "does not exist on this worker; correct the path" in error
    assert again is HOPELESS


@pytest.mark.parametrize(
    ("script", "message", "will_retry"),
    [
        (
            "import sys; print('loading'); sys.exit('out of memory')",
            "ended with status 1 before it served",
            TRIED_AGAIN,
        ),
        ("import os; os.kill(os.getpid(), 9)", "ended with status .* before it served", TRIED_AGAIN),
        ("import sys; sys.exit('ValidationError: architectures')", "ValidationError: architectures", HOPELESS),
        ("import time; time.sleep(600)", "was not ready within load_timeout_s=1", TRIED_AGAIN),
    ],
)
async def test_a_server_that_dies_or_hangs_while_it_loads(
    script: str, message: str, will_retry: bool, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(vllm_server, "COMMAND", (sys.executable, "-c", script))
    timeout_s = 1.0 if "sleep" in script else 60.0
    error, again = await failure(document("vllm-serve", model=str(tmp_path), load_timeout_s=timeout_s), caplog)
    assert re.search(message, error), error
    assert again == will_retry


async def test_a_port_that_is_taken(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error, again = await failure(document("vllm-serve", model=str(tmp_path), port=port), caplog)
    assert f"port {port} on 127.0.0.1 is in use; choose another" in error
    assert again is TRIED_AGAIN


async def _hang(asked: Asked, write: Write) -> None:
    await asyncio.sleep(600)


async def _garbage(asked: Asked, write: Write) -> None:
    await write(whole(200, b"<html>hello</html>"))


async def _expired(asked: Asked, write: Write) -> None:
    await write(whole(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_expired, r"refuses the key from .*MY_KEY.* \(HTTP 401\): it is wrong, expired or lacks a right; renew it"),
        (_hang, "cannot be reached"),
        (_garbage, "does not speak OpenAI's protocol"),
    ],
)
async def test_a_server_that_hangs_or_sends_garbage_or_refuses_the_key(
    answer: Any, message: str, monkeypatch: Any, caplog: Any
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("MY_KEY", KEY)
    async with serving_http(answer) as address:
        arguments = {"base_url": address, "model": "m", "api_key_env": "MY_KEY", "first_token_timeout_s": 1.0}
        error, again = await failure(document("openai", **arguments), caplog)
    assert re.search(message, error), error
    assert again is TRIED_AGAIN


async def test_a_replica_comes_when_what_it_lacked_is_there(caplog: Any) -> None:
    """Of a server that was away: the replica that failed serves as soon as one of its tries finds it."""
    pytest.importorskip("openai")
    is_there = False

    async def answer(asked: Asked, write: Write) -> None:
        await write(whole(200, {"data": [{"id": "m"}]}) if is_there else whole(500, {}))

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving_http(answer))
        made = document("openai", base_url=address, model="m")
        made["models"]["small"]["on"]["cpu"] = {"latency": {"first_token_s": 0.1, "output_token_s": 0.1}}
        cluster = await stack.enter_async_context(InProcessCluster(made, wait=False))
        await cluster.until(lambda: cluster.router.service(Arrivals).failed)
        is_there = True
        await cluster.until(lambda: len(cluster.router.machine.fleet) == 1)
        assert not cluster.router.service(Arrivals).failed


async def test_a_run_on_a_model_that_does_not_come_says_why_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is held, as the engine is tried again, and its report names what is wrong."""
    monkeypatch.setattr(host, "FIRST_RETRY_S", 100.0)
    async with InProcessCluster(document("scripted", load_error="no memory"), wait=False) as cluster:
        await cluster.until(lambda: cluster.router.service(Arrivals).failed)
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: cluster.router.machine.held)
        said = str(await fm.report(future))
        assert "held, as no replica of model 'small' was ready; small-cpu-0 tries again after: " in said
        assert "no memory" in said
        await future.cancel()
