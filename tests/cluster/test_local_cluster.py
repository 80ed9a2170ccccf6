"""Starting and closing a local cluster: what is refused, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import dask_fmware as fm
from dask_fmware.errors import DeploymentError
from dask_fmware.testing import deployment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
PATIENCE_S = 60.0

SCRIPT = """
import sys
import dask_fmware as fm
from dask_fmware.testing import deployment
from distributed import Client

if __name__ == "__main__":
    with fm.LocalModelCluster(deployment("small"), dashboard_address=None) as cluster, Client(cluster) as client:
        fm.wait_ready(client)
        client.compute(fm.workflow(name="one")(lambda text: fm.Model("small")("{text}", text=text))("x")).result()
        print("ready", flush=True)  # the main thread is idle: Python loses a Ctrl-C that comes inside a GC callback
        if sys.argv[1] == "wait":
            import threading
            threading.Event().wait()
"""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("what", ["scheduler_port", "dashboard_address"])
def test_a_port_in_use_is_refused_before_anything_starts(taken: int, what: str) -> None:
    given: Any = taken if what == "scheduler_port" else f"127.0.0.1:{taken}"
    with pytest.raises(DeploymentError, match=rf"{what}: port {taken} on 127.0.0.1 is in use; choose another"):
        fm.LocalModelCluster(deployment("small"), **{what: given})


def test_a_dashboard_address_without_a_port_is_refused() -> None:
    with pytest.raises(DeploymentError, match=r"dashboard_address='localhost': write host:port"):
        fm.LocalModelCluster(deployment("small"), dashboard_address="localhost")


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeploymentError, match=r"psychic.*greedy"):
        fm.LocalModelCluster(deployment("small", router={"policy": "psychic"}), dashboard_address=None)


def test_a_document_that_does_not_exist_is_refused_with_its_name() -> None:
    with pytest.raises(DeploymentError, match=r"nowhere\.yaml"):
        fm.LocalModelCluster(Path("nowhere.yaml"))


def test_more_replicas_than_cards_are_refused() -> None:
    document = deployment("small", on={"cpu": 2})
    document["accelerators"]["cpu"]["cards"] = 1
    with pytest.raises(DeploymentError, match="2 replicas asked for, room for 1"):
        fm.LocalModelCluster(document)


def test_a_missing_gguf_file_is_named_by_wait_ready() -> None:
    pytest.importorskip("xllamacpp")
    document = deployment("small")
    document["models"]["small"] |= {"engine": "llama.cpp", "arguments": {"gguf": "no-such-model.gguf"}}
    with (
        fm.LocalModelCluster(document, dashboard_address=None, processes=False) as cluster,
        Client(cluster) as client,
    ):
        deadline = time.monotonic() + PATIENCE_S
        while not fm.status(client)["failed_replicas"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises((DeploymentError, TimeoutError), match=r"no-such-model\.gguf"):
            fm.wait_ready(client, timeout_s=0.1)


@pytest.mark.parametrize("how", [pytest.param("close", marks=pytest.mark.slow), "ctrl-c", "terminate"])
def test_no_process_outlives_its_cluster(how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script), "close" if how == "close" else "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if how != "close":
            assert len(_session(process.pid)) > 2
            os.killpg(process.pid, signal.SIGINT) if how == "ctrl-c" else process.terminate()
        process.communicate(timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while _session(process.pid):
        assert time.monotonic() < deadline, _session(process.pid)
        time.sleep(0.05)


INTERRUPTED = """
import os, signal, threading
import dask_fmware as fm
from distributed import Client, Event
from dask_fmware.testing import deployment
if __name__ == "__main__":
    with fm.LocalModelCluster(deployment("small"), dashboard_address=None) as cluster, Client(cluster) as client:
        fm.wait_ready(client)
        pids = client.run(os.getpid, nanny=False)
        threading.Timer(0.2, os.killpg, (os.getpgid(0), signal.SIGINT)).start()
        try:
            Event("never", client).wait()
        except KeyboardInterrupt:
            print("same" if client.run(os.getpid, nanny=False) == pids else "others", flush=True)
"""


def test_replicas_survive_the_interrupt_of_a_cell_which_goes_to_the_whole_process_group(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, start_new_session=True, timeout=PATIENCE_S
    )
    assert ran.stdout == "same\n"
    assert "KeyboardInterrupt" not in ran.stderr


def _session(leader: int) -> list[str]:
    """Command lines of the processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
