"""Worker processes that end in each of the ways they can, in the middle of a prompt and in the middle of an answer.

Runs are served elsewhere, the record keeps the contract, and no process is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import dask.config
import pytest
from distributed import Client, Nanny

import dask_fmware as fm
from benchmarks.support.soak_faults import tell_engine
from dask_fmware.errors import AttemptsExhaustedError
from dask_fmware_scheduler import run_tasks
from tests.cluster.chaos import PATIENCE_S, kept, leftovers, pids, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

VICTIM, OTHER = "small-card-0", "small-card-1"
SLOTS = 4
LAW = {"w0": 0.02, "w1": 0.002, "w2": 0.0, "w3": 0.0}  # a prompt of 600 words takes 1.5 s, an answer 2 s
CONFIG = {"distributed.worker.preload": ["benchmarks.support.faulty_engine"]}


@fm.workflow
def ask(prompt: str) -> Any:
    return fm.Model("small")("{prompt}", prompt=prompt, max_tokens=100, name="answer")


@fm.task
def end_this_process(text: str) -> str:
    os._exit(1)


@fm.workflow
def doomed(prompt: str) -> Any:
    return end_this_process(fm.Model("small")("{prompt}", prompt=prompt, max_tokens=1))


def deployment() -> dict[str, Any]:
    """Two replicas of an emulated card."""
    latency = {"first_token_s": LAW["w0"], "prompt_token_s": LAW["w1"], "output_token_s": LAW["w0"]}
    served = {
        "engine": "faulty",
        "slots": SLOTS,
        "arguments": {"inner": "emulated", "arguments": {"law": LAW}},
        "on": {"card": {"replicas": 2, "latency": latency}},
    }
    return {"accelerators": {"card": {"cards": 2}}, "models": {"small": served}, "light_workers": {"count": 1}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[fm.LocalModelCluster, Client]]:
    with dask.config.set(CONFIG), kept(deployment(), tmp_path_factory.mktemp("chaos")) as made:
        yield made


@pytest.fixture
def cluster(world: tuple[fm.LocalModelCluster, Client]) -> Iterator[fm.LocalModelCluster]:
    """Two replicas that serve; nothing is left of the runs of a test."""
    cluster, client = world
    fm.wait_ready(client)
    yield cluster
    until(lambda: not client.run_on_scheduler(leftovers), lambda: client.run_on_scheduler(leftovers))


@pytest.fixture
def client(world: tuple[fm.LocalModelCluster, Client], cluster: fm.LocalModelCluster) -> Client:
    return world[1]


def attempts(futures: list[Any], replica: str) -> list[Any]:
    """All attempts on a replica."""
    reports = fm.reports(futures[0].client, futures)
    return [a for report in reports for call in report.data.calls for a in call.attempts if a.replica == replica]


def runs_at(client: Client, moment: str, number: int) -> list[Any]:
    """Runs of which some are in their prompt, or in their answer, on the victim."""
    words = 600 if moment == "prompt" else 4
    futures = [client.compute(ask(f"{n} " + "word " * words)) for n in range(number)]

    def is_there() -> bool:
        running = [a for a in attempts(futures, VICTIM) if a.outcome == "running"]
        has_begun = [a.first_token_at is not None for a in running]
        return bool(running) and (all(has_begun) if moment == "answer" else not any(has_begun))

    until(is_there, f"calls in their {moment} on {VICTIM}")
    return futures


def befall(cluster: fm.LocalModelCluster, client: Client, fault: str, name: str = VICTIM) -> None:
    """Let a fault happen to a worker."""
    nanny = cluster.workers[name]
    assert isinstance(nanny, Nanny)
    match fault:
        case "kill":
            os.kill(nanny.pid, signal.SIGKILL)
        case "segfault":
            os.kill(nanny.pid, signal.SIGSEGV)
        case "memory":
            client.run(tell_engine, "exhaust", workers=[nanny.worker_address])
        case "retire":
            client.retire_workers([nanny.worker_address])


@pytest.mark.parametrize("moment", ["prompt", "answer"])
@pytest.mark.parametrize("fault", ["kill", "segfault", "memory", "retire"])
def test_calls_of_a_replica_that_goes_are_served_elsewhere(
    cluster: fm.LocalModelCluster, client: Client, fault: str, moment: str
) -> None:
    futures = runs_at(client, moment, 2 * SLOTS)
    before = pids(client)[VICTIM]
    befall(cluster, client, fault)
    assert len({answer.usage.output_tokens for answer in client.gather(futures)}) == 1
    ended = [a for a in attempts(futures, VICTIM) if a.outcome != "finished"]
    assert ended
    assert {a.outcome for a in ended} <= {"lost", "aborted"}
    if moment == "prompt":
        assert all(a.first_token_at is None for a in ended)
    else:
        assert any(a.first_token_at is not None for a in ended)
    if fault == "retire":  # it was asked for, so its nanny has ended too
        cluster.workers.pop(VICTIM, None)
        cluster.sync(cluster._correct_state)
    until(lambda: pids(client).get(VICTIM, before) != before, f"another {VICTIM}")


def test_all_replicas_of_a_model_are_gone_and_come_back(cluster: fm.LocalModelCluster, client: Client) -> None:
    futures = runs_at(client, "answer", 5 * SLOTS)
    for name in (VICTIM, OTHER):
        befall(cluster, client, "kill", name)
    assert len(client.gather(futures)) == 5 * SLOTS
    tried = attempts(futures, VICTIM) + attempts(futures, OTHER)
    assert len(tried) <= len(futures) + 2 * SLOTS, "no more than what ran was tried again: there is no storm"


def test_plain_code_that_ends_every_process_is_blamed_and_its_worker_comes_back(
    cluster: fm.LocalModelCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tasks, "DEATHS", 2)
    future = client.compute(doomed("x"))
    with pytest.raises(AttemptsExhaustedError, match=r"node 'end_this_process': 2 workers died while they ran it"):
        future.result(timeout=PATIENCE_S)
    assert fm.report(future).data.state == "failed"
    future.release()  # its error keeps the frame of this test alive
    until(lambda: fm.status(client)["light_workers"] == 1, "the light worker is back")


def test_a_replica_that_is_killed_while_it_retires_loses_no_run(cluster: fm.LocalModelCluster, client: Client) -> None:
    futures = runs_at(client, "answer", 2 * SLOTS)
    nanny = cluster.workers[VICTIM]
    retiring = client.retire_workers([nanny.worker_address], asynchronous=True)
    os.kill(nanny.pid, signal.SIGKILL)
    client.sync(_over, retiring)
    assert len(client.gather(futures)) == 2 * SLOTS
    if nanny.status.name in ("closed", "failed"):
        cluster.workers.pop(VICTIM, None)
        cluster.sync(cluster._correct_state)


async def _over(coroutine: Any) -> None:
    await coroutine


def test_calls_of_a_process_that_is_frozen_are_served_elsewhere_and_it_serves_again(tmp_path: Any) -> None:
    """By SIGSTOP, until Dask takes it for dead: nothing tells but its silence."""
    patience = dask.config.set({**CONFIG, "distributed.scheduler.worker-ttl": "10s"})
    with patience, kept(deployment(), tmp_path) as (cluster, client):
        fm.wait_ready(client)
        futures = runs_at(client, "answer", 2 * SLOTS)
        pid = cluster.workers[VICTIM].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert len(client.gather(futures)) == 2 * SLOTS
        finally:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # its nanny has ended it
        assert any(a.outcome == "lost" for a in attempts(futures, VICTIM))
        until(lambda: VICTIM in {r["name"] for r in fm.status(client)["replicas"]}, f"{VICTIM} serves again")
        more = [client.compute(ask(f"more {n}")) for n in range(2 * SLOTS)]
        client.gather(more)
        assert attempts(more, VICTIM)
