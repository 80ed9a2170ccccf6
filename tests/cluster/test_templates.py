"""What is sent to a host on which a worker is started by SSH; the connection is a fake."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.deploy.ssh import Worker

from dask_fmware.cluster.templates import labels, spec_maker
from dask_fmware.spec.deployment import Deployment, ReplicaSpec
from dask_fmware.testing import deployment

HOSTS = {"cpu": ["one", "two"]}


class FakeProcess:
    def __init__(self) -> None:
        self.stderr = self

    async def readline(self) -> str:
        return "distributed.nanny - INFO - Start Nanny: worker at: tcp://one:1"

    def kill(self) -> None:
        pass


class FakeSSH:
    """Stands for `asyncssh` and a connection of it; keeps what it was asked."""

    def __init__(self) -> None:
        self.connected: list[tuple[str, dict[str, Any]]] = []
        self.commands: list[str] = []

    async def connect(self, address: str, **options: Any) -> FakeSSH:
        self.connected.append((address, options))
        return self

    async def run(self, command: str) -> SimpleNamespace:
        return SimpleNamespace(exit_status=0)

    async def create_process(self, command: str) -> FakeProcess:
        self.commands.append(command)
        return FakeProcess()

    def close(self) -> None:
        pass


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
    worker = Worker("tcp://scheduler:1", **{"name": "m-cpu-7", **spec["options"]})
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
    assert ssh.connected == [("two", {})]


async def test_a_host_is_reached_as_the_cluster_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = {0: host("zero", username="z"), 1: host("two", "/opt/python", username="me", known_hosts=None)}
    spec = spec_maker(SimpleNamespace(worker_spec=specs), HOSTS)(replica("cpu-1"))
    ssh, options = await sent(monkeypatch, dict(spec))
    assert ssh.connected == [("two", {"username": "me", "known_hosts": None})]
    assert "/opt/python -m distributed.cli.dask_spec" in ssh.commands[0]
    assert options["local_directory"] == "/scratch"
    assert options["resources"] == {"disk": 1, **labels(replica("cpu-1"))}


async def test_a_host_that_is_not_known_is_reached_as_the_scheduler_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimpleNamespace(worker_spec={}, scheduler_spec=host("head", username="me"))
    ssh, options = await sent(monkeypatch, dict(spec_maker(cluster, HOSTS)(replica("cpu-0"))))
    assert ssh.connected == [("one", {"username": "me"})]
    assert "local_directory" not in options
