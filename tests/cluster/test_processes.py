"""Real processes of workers and clients, killed in the middle of their work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client

import dask_fmware as fm
from dask_fmware.compile.steps import HOST
from dask_fmware.errors import AttemptsExhaustedError
from dask_fmware.testing import deployment
from tests.cluster.chaos import doomed, kept, leftovers, pids, until
from tests.cluster.flows import fan, one, rag

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
PATIENCE_S = 60.0  # of one result


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fm.LocalModelCluster]:
    """Two replicas of two models and two light workers, each a process; what they did keeps the contract."""
    poison = {"when": "poison", "fault": "exit", "at_token": 2}
    endless = {"when": "of a doomed client", "token_s": 10.0}  # ten minutes
    document = deployment("small", "large", on={"cpu": 2}, light_workers=2, token_s=0.01, rules=[poison, endless])
    with kept(document, tmp_path_factory.mktemp("processes"), dashboard_address="127.0.0.1:0") as (cluster, _):
        yield cluster


@pytest.fixture
def client(cluster: fm.LocalModelCluster) -> Iterator[Client]:
    """A client of the whole cluster, and nothing left of it after the test."""
    with Client(cluster, set_as_default=False) as client:
        fm.wait_ready(client)
        yield client
        until(lambda: not client.run_on_scheduler(leftovers), lambda: client.run_on_scheduler(leftovers))


def running(client: Client, name: str) -> int:
    """Slots taken on a replica."""
    return next((r["running"] for r in fm.status(client)["replicas"] if r["name"] == name), 0)


def story(client: Client) -> str:
    """Replicas that are there, and those that are not with their reason."""
    state = fm.status(client)
    there = [(r["name"], r["worker"], r["running"]) for r in state["replicas"]]
    return f"{there}, failed: {state['failed_replicas']}, workers: {client.scheduler_info(-1)['workers']}"


def replica_address(client: Client, name: str) -> str | None:
    """Address of a replica that is ready."""
    return next((r["worker"] for r in fm.status(client)["replicas"] if r["name"] == name), None)


def requests(dask_worker: Any) -> int:
    """What the engine of a worker works on (runs on the worker)."""
    loaded = dask_worker.plugins[HOST].loaded
    return sum((loaded.engine.state().running, loaded.engine.state().waiting)) if loaded is not None else 0


def test_runs_of_a_killed_client_are_released_and_their_engine_stops(
    cluster: fm.LocalModelCluster, client: Client
) -> None:
    with doomed("client", cluster.scheduler_address) as (process, _):
        until(lambda: sum(client.run(requests).values()) == 3, "its calls run")
        process.send_signal(signal.SIGKILL)
        until(lambda: not client.run_on_scheduler(leftovers), lambda: client.run_on_scheduler(leftovers))
        until(lambda: not sum(client.run(requests).values()), "its engine stops")


def test_calls_streamed_from_a_killed_replica_finish_elsewhere_and_never_repeat_text(client: Client) -> None:
    bound = [one(f"tell me about {n}") for n in range(8)]
    futures = [client.compute(b) for b in bound]
    shown: dict[int, str] = {}
    restarts: list[bool] = []

    def read(n: int) -> None:
        text = ""
        for chunk in fm.stream(futures[n]):
            restarts.append(chunk.restarted)
            text = chunk.text if chunk.restarted else text + chunk.text
        shown[n] = text

    readers = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for reader in readers:
        reader.start()
    until(lambda: running(client, "small-cpu-0") > 0 and len(restarts) > 20)
    before = replica_address(client, "small-cpu-0")
    os.kill(pids(client)["small-cpu-0"], signal.SIGKILL)
    answers = client.gather(futures)
    for reader in readers:
        reader.join(PATIENCE_S)
    assert shown == {n: answer.text for n, answer in enumerate(answers)}
    attempts = [a for f in futures for call in fm.report(f).data.calls for a in call.attempts]
    assert "lost" in {attempt.outcome for attempt in attempts}
    until(lambda: replica_address(client, "small-cpu-0") not in (None, before), lambda: story(client))
    again = [client.compute(one(f"again {n}")) for n in range(8)]
    client.gather(again)
    assert "small-cpu-0" in {fm.report(f).rows[0]["replica"] for f in again}  # the nanny brought it back, it serves


def test_whole_workflows_survive_the_loss_of_a_replica(client: Client) -> None:
    futures = [client.compute(rag(question=f"{n}")) for n in range(16)]
    until(lambda: running(client, "large-cpu-2") > 0)
    os.kill(pids(client)["large-cpu-2"], signal.SIGKILL)
    assert {answer.model for answer in client.gather(futures)} == {"large"}
    until(lambda: len(fm.status(client)["replicas"]) == 4, lambda: story(client))


def test_maps_and_results_survive_the_loss_of_their_light_worker(client: Client) -> None:
    done = [client.compute(one(f"done {n}")) for n in range(4)]
    texts = [answer.text for answer in client.gather(done)]
    futures = [client.compute(fan([f"{n} {i}" for i in range(4)])) for n in range(8)]
    until(lambda: any(r["running"] for r in fm.status(client)["replicas"]))
    found = pids(client)
    for name in ("light-0", "light-1"):
        os.kill(found[name], signal.SIGKILL)
    assert [len(result) for result in client.gather(futures)] == [4] * 8
    assert [answer.text for answer in client.gather(done)] == texts
    until(lambda: fm.status(client)["light_workers"] == 2)


def test_a_prompt_that_kills_every_process_ends_after_the_permitted_attempts_and_its_neighbours_are_served(
    client: Client,
) -> None:
    poison = client.compute(one("poison"))
    neighbours = [client.compute(one(f"beside it {n}")) for n in range(12)]
    assert {answer.model for answer in client.gather(neighbours)} == {"small"}
    with pytest.raises(AttemptsExhaustedError, match="3 attempts failed"):
        poison.result(timeout=PATIENCE_S)
    assert [a.outcome for a in fm.report(poison).data.calls[0].attempts] == ["lost"] * 3
    assert any(len(call.attempts) > 1 for f in neighbours for call in fm.report(f).data.calls)  # they were beside it
    for future in (poison, *neighbours):  # its error keeps the frame of this test alive
        future.release()
    until(lambda: len(fm.status(client)["replicas"]) == 4, lambda: story(client))
    assert client.compute(one("fine")).result(timeout=PATIENCE_S).model == "small"


def test_scheduler_and_dashboard_listen_on_the_loopback_only(cluster: fm.LocalModelCluster) -> None:
    pytest.importorskip("bokeh")
    with open("/proc/net/tcp") as lines:
        next(lines)
        sockets = [line.split() for line in lines]
    ports = {int(s[1].split(":")[1], 16): s[1].split(":")[0] for s in sockets if s[3] == "0A"}
    for url in (cluster.dashboard_link.removesuffix("/status"), cluster.scheduler_address):
        assert ports[int(url.rsplit(":", 1)[1])] == "0100007F", url


def test_every_socket_of_every_process_listens_on_the_loopback_only(client: Client) -> None:
    def listening() -> list[str]:
        inodes = set()
        for number in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        found = []
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table) as lines:
                next(lines)
                found += [f[1] for f in map(str.split, lines) if f[3] == "0A" and f[9] in inodes]
        return found

    for addresses in [*client.run(listening).values(), client.run_on_scheduler(listening)]:
        assert all(address.startswith("0100007F:") for address in addresses), addresses
