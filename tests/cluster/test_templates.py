"""What is sent to a host on which a worker is started by SSH; the connection is a fake."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.core import Status
from distributed.deploy.ssh import Worker
from distributed.utils import import_term

from dask_fmware.cluster.ssh import HostWorker, listen_to
from dask_fmware.cluster.templates import labels, spec_maker
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.spec.deployment import Deployment, ReplicaSpec
from dask_fmware.testing import deployment

HOSTS = {"cpu": ["one", "two"]}


class FakeProcess:
    """Has printed that its worker started, and prints on until it is told to end."""

    def __init__(self) -> None:
        self.stderr = self.stdout = self
        self.has_ended = asyncio.Event()
        self.returncode: int | None = None
        self.reads = 0
        self.lines = ["distributed.nanny - INFO - Start Nanny: worker at: tcp://one:1\n"]

    async def readline(self) -> str:
        return self.lines.pop(0) if self.lines else ""

    async def read(self, most: int) -> str:
        self.reads += 1
        await asyncio.sleep(0)
        return "" if self.has_ended.is_set() else "x" * most

    async def wait_closed(self) -> None:
        await self.has_ended.wait()

    def kill(self) -> None:
        self.has_ended.set()


class FakeSSH:
    """Stands for `asyncssh` and a connection of it; keeps what it was asked."""

    def __init__(self) -> None:
        self.connected: list[tuple[str, dict[str, Any]]] = []
        self.commands: list[str] = []
        self.process = FakeProcess()
        self.closed = 0

    async def connect(self, address: str, **options: Any) -> FakeSSH:
        self.connected.append((address, options))
        return self

    async def run(self, command: str) -> SimpleNamespace:
        return SimpleNamespace(exit_status=0)

    async def create_process(self, command: str) -> FakeProcess:
        self.commands.append(command)
        return self.process

    def close(self) -> None:
        self.closed += 1

    def end(self, returncode: int | None) -> None:
        """The process ends, or without a code the connection does; asyncssh sends no signal there any more."""
        self.process.returncode = returncode
        self.process.has_ended.set()
        self.process.kill = self._refuse  # type: ignore[method-assign]

    def _refuse(self) -> None:
        raise OSError("Channel not open")


def host(address: str, python: str | None = None, **options: Any) -> dict[str, Any]:
    """Spec of a worker as `SSHCluster` makes it."""
    given = {"n_workers": 2, "local_directory": "/scratch", "resources": {"disk": 1}}
    made = {"address": address, "connect_options": options, "kwargs": given, "remote_python": python}
    return {"cls": Worker, "options": made}


def replica(card: str) -> ReplicaSpec:
    found = next(Deployment.model_validate(deployment("m")).replicas())
    return found.model_copy(update={"name": "m-cpu-7", "card": card})


async def sent(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]) -> tuple[FakeSSH, dict[str, Any]]:
    """Start a worker from a spec; return the connection and the options of the worker on the host."""
    ssh = FakeSSH()
    monkeypatch.setitem(sys.modules, "asyncssh", ssh)  # type: ignore[arg-type]
    worker = import_term(spec["cls"])("tcp://scheduler:1", **{"name": "m-cpu-7", **spec["options"]})
    await worker.start()
    await worker.close()
    [made] = json.loads(ssh.commands[0].split("--spec '")[1].rstrip("'")).values()
    assert made["cls"] == "distributed.Nanny"
    return ssh, made["opts"]


async def test_a_worker_on_a_host_has_the_name_and_the_labels_of_its_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_maker(SimpleNamespace(worker_spec={}), HOSTS)(replica("cpu-1"))
    ssh, options = await sent(monkeypatch, dict(spec))
    assert options["name"] == "m-cpu-7"
    assert options["resources"] == labels(replica("cpu-1"))
    assert ssh.connected == [("two", {"errors": "replace"})]


async def test_a_host_is_reached_as_the_cluster_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = {0: host("zero", username="z"), 1: host("two", "/opt/python", username="me", known_hosts=None)}
    spec = spec_maker(SimpleNamespace(worker_spec=specs), HOSTS)(replica("cpu-1"))
    ssh, options = await sent(monkeypatch, dict(spec))
    assert ssh.connected == [("two", {"errors": "replace", "username": "me", "known_hosts": None})]
    assert "/opt/python -m distributed.cli.dask_spec" in ssh.commands[0]
    assert options["local_directory"] == "/scratch"
    assert options["resources"] == {"disk": 1, **labels(replica("cpu-1"))}


async def test_a_host_that_is_not_known_is_reached_as_the_scheduler_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimpleNamespace(worker_spec={}, scheduler_spec=host("head", username="me"))
    ssh, options = await sent(monkeypatch, dict(spec_maker(cluster, HOSTS)(replica("cpu-0"))))
    assert ssh.connected == [("one", {"errors": "replace", "username": "me"})]
    assert "local_directory" not in options


async def test_what_a_worker_prints_is_read_until_it_ends_and_its_end_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", ssh := FakeSSH())  # type: ignore[arg-type]
    worker = HostWorker("tcp://scheduler:1", "one", {}, {})
    await worker.start()
    async with asyncio.timeout(10):
        while ssh.process.reads < 100:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    assert worker.status == Status.running
    ssh.end(-9)
    async with asyncio.timeout(10):
        while worker.status == Status.running:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    assert worker.status == Status.closed
    assert ssh.closed == 1


async def test_an_empty_line_does_not_end_the_start_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", ssh := FakeSSH())  # type: ignore[arg-type]
    ssh.process.lines.insert(0, "\n")
    worker = HostWorker("tcp://scheduler:1", "one", {}, {})
    await worker.start()
    assert worker.status == Status.running


async def test_a_worker_that_cannot_start_says_where_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", ssh := FakeSSH())  # type: ignore[arg-type]
    ssh.process.lines = ["Traceback (most recent call last):\n", "\n", "ImportError: no dask_fmware\n", "\n"]
    with pytest.raises(RuntimeFaultError, match="host 'one': ImportError: no dask_fmware"):
        await HostWorker("tcp://scheduler:1", "one", {}, {}).start()

    async def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("Connect call failed")

    monkeypatch.setattr(ssh, "connect", refuse)
    with pytest.raises(RuntimeFaultError, match="host 'one': OSError: Connect call failed"):
        await HostWorker("tcp://scheduler:1", "one", {}, {}).start()


async def test_a_worker_whose_connection_is_lost_is_not_taken_for_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", ssh := FakeSSH())  # type: ignore[arg-type]
    worker = HostWorker("tcp://scheduler:1", "one", {}, {})
    await worker.start()
    ssh.end(None)
    async with asyncio.timeout(10):
        while ssh.process.reads < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert (worker.status, ssh.closed) == (Status.running, 0)
    await worker.close()
    assert (worker.status, ssh.closed) == (Status.closed, 1)


async def test_what_the_cluster_itself_has_started_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", ssh := FakeSSH())  # type: ignore[arg-type]
    light = Worker("tcp://scheduler:1", "one", {}, {})
    await light.start()
    cluster = SimpleNamespace(scheduler=object(), workers={0: light, 1: object()})
    await listen_to(cluster)
    ssh.process.has_ended.set()
    await listen_to(cluster)
    await asyncio.sleep(0.01)
    assert ssh.process.reads == 2  # what it prints and its errors
