"""`fm.provision` on an `SSHCluster`: replicas on this machine, reached through an `sshd` of its own.

Left out where `sshd` or asyncssh are not installed; `docs/ssh.md` says how to run it.
"""

from __future__ import annotations

import gc
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, SSHCluster, wait

import dask_fmware as fm
from dask_fmware.testing import deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Dask's last connection, see below
]

pytest.importorskip("asyncssh")
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
if SSHD is None:
    pytest.skip("sshd is not installed", allow_module_level=True)

m = fm.Model("m")
PATIENCE_S = 120.0
PYTHON = f"env PYTHONPATH={os.pathsep.join(filter(None, sys.path))} {sys.executable}"
CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {home}/host
AuthorizedKeysFile {home}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
"""


@pytest.fixture(scope="module")
def connect_options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """How this machine is reached by an SSH server with keys of its own."""
    home = tmp_path_factory.mktemp("ssh")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    (home / "sshd_config").write_text(CONFIGURATION.format(port=port, home=home))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    log = home / "log"
    log.touch()
    with subprocess.Popen([str(SSHD), "-D", "-f", str(home / "sshd_config"), "-E", str(log)]) as server:
        try:
            until(lambda: "listening" in log.read_text(), "it listens")
            key = [str(home / "key")]
            yield {"port": port, "username": getpass.getuser(), "client_keys": key, "known_hosts": None}
        finally:
            server.terminate()


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@fm.workflow(slo=fm.SLO(ttft_s=30))
def ask(question: str) -> Any:
    return m("{question}", question=question, max_tokens=8)


def document() -> dict[str, Any]:
    made = deployment("m", token_s=0.02, load_s=0.5)
    made["accelerators"]["cpu"]["cards"] = 3
    made["models"]["m"]["on"]["cpu"]["replicas"] = 0
    made.pop("light_workers", None)
    return made


def processes(port: int) -> list[int]:
    """Processes of Dask on this machine that belong to a scheduler's port."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "distributed.cli.dask_spec" in words and f":{port}\0" in words:
            found.append(int(path.parent.name))
    return found


def shout(start: bytes = b"") -> None:
    """Print more than SSH takes unread."""
    os.write(2, start)
    for _ in range(5 * 1024):
        os.write(2, b"x" * 1023 + b"\n")


def test_replicas_start_and_stop_over_ssh_and_no_run_is_lost(connect_options: dict[str, Any]) -> None:
    with (
        SSHCluster(
            ["localhost", "localhost"],
            connect_options=connect_options,
            remote_python=PYTHON,
            worker_options={"nthreads": 2},
            scheduler_options={"port": 0, "dashboard_address": ":0"},
        ) as cluster,
        Client(cluster) as client,
    ):
        port = int(cluster.scheduler_address.rpartition(":")[2])
        client.wait_for_workers(1, timeout=PATIENCE_S)
        fm.install(client, document())
        first = client.compute(ask(question="anyone?"))  # held: there is no replica yet
        options = fm.Provisioning(mode="manual", interval_s=0.5, cool_down_s=0, retry_s=1)
        provisioner = fm.provision(cluster, options, deployment=document(), hosts={"cpu": ["localhost"] * 3})

        def ready() -> int:
            return sum(kind["ready"] for kind in fm.status(client)["provisioning"]["replicas"])

        def replica() -> str:
            [found] = fm.status(client)["replicas"]
            return str(found["worker"])

        until(lambda: fm.status(client)["provisioning"] is not None, "it decides")
        fm.scale(client, {"m": {"cpu": 2}})
        until(lambda: ready() == 2, "two replicas serve")
        assert first.result(timeout=PATIENCE_S).text
        futures = [client.compute(ask(question=f"q{i}")) for i in range(40)]
        fm.scale(client, {"m": {"cpu": 1}})
        wait(futures, timeout=PATIENCE_S)
        reports = [fm.report(future).data for future in futures]
        assert [report.state for report in reports] == ["finished"] * 40
        assert all(len(call.attempts) == 1 for report in reports for call in report.calls)
        until(lambda: ready() == 1 and len(processes(port)) == 2, "one has ended, the light worker is there")

        [light] = set(client.scheduler_info(n_workers=-1)["workers"]) - {replica()}
        client.submit(shout, b"\xff is no text\n", workers=[replica()]).result(timeout=PATIENCE_S)
        client.submit(shout, workers=[light]).result(timeout=PATIENCE_S)
        client.run_on_scheduler(shout)

        os.kill(client.run(os.getpid, workers=[replica()])[replica()], signal.SIGKILL)
        until(lambda: ready() == 0, "its loss is known")
        until(lambda: ready() == 1, "its nanny has started another")
        assert client.compute(ask(question="again")).result(timeout=PATIENCE_S).text
        os.kill(client.run(os.getpid, workers=[replica()], nanny=True)[replica()], signal.SIGKILL)
        until(lambda: ready() == 0, "its loss is known")
        until(lambda: ready() == 1, "it is replaced at once, not after the time of a start", 40.0)
        assert client.compute(ask(question="and again")).result(timeout=PATIENCE_S).text

        fm.scale(client, {"m": {"cpu": 0}})
        until(lambda: ready() == 0, "no replica is left")
        assert provisioner.error is None
        fm.scale(client, {"m": {"cpu": 1}})
        until(lambda: ready() == 1, "there is one as the cluster closes")
    until(lambda: not processes(port), "no process is left")
    gc.collect()  # Dask ends the event loop before the connection to its scheduler is closed
