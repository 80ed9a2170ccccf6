"""The contract under everything at once: kills, cancels, engine errors and crashes, pauses, new workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import CancelledError, Client, Worker
from distributed.core import Status

import dask_fmware as fm
from dask_fmware.errors import AttemptsExhaustedError, EngineError
from dask_fmware.model.replica import ACCELERATOR_LABEL, MODEL_LABEL, label
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.chaos import PATIENCE_S, kept, leftovers, until
from tests.cluster.flows import fan, one, rag, shopping

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _bind(draw: random.Random, n: int) -> fm.BoundWorkflow:
    text = f"{n} {'bad' if draw.random() < 0.03 else 'good'}"
    match draw.randrange(4):
        case 0:
            return rag(question=text)
        case 1:
            return shopping(message=text)
        case 2:
            return fan([f"{text} {i}" for i in range(draw.randrange(5))])
    return one(text)


@pytest.mark.parametrize("policy", ["greedy", "least_outstanding", "power_of_two", "round_robin"])
@pytest.mark.parametrize("seed", range(2))
async def test_every_run_ends_once_and_nothing_leaks_in_one_process(seed: int, policy: str) -> None:
    draw = random.Random(seed)
    rules = [
        {"when": "bad", "fault": "error", "at_token": 2},
        {"when": "137 good", "fault": "crash", "at_token": 3},  # whatever replica it comes to
    ]
    router = {"policy": policy, "max_attempts": 4}
    document = deployment("small", "large", on={"cpu": 3}, light_workers=2, token_s=0.0005, rules=rules, router=router)
    async with InProcessCluster(document, validate=True) as cluster:
        peaks: list[int] = []
        futures = []
        for n in range(300):
            futures.append(cluster.client.compute(_bind(draw, n)))
            if draw.random() < 0.1:
                await draw.choice(futures).cancel()
            if draw.random() < 0.05:
                peaks += [engine.peak for engine in cluster.engines.values()]
                await _disturb(cluster, draw, n)
            await asyncio.sleep(draw.random() * 0.01)
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*(f.result() for f in futures), return_exceptions=True)
        for future, answer in zip(futures, answers, strict=True):
            assert not isinstance(answer, BaseException) or isinstance(
                answer, (CancelledError, EngineError, AttemptsExhaustedError)
            ), f"{future.key}: {answer!r}"
        reports = await fm.reports(cluster.client, futures)
        assert {report.data.state for report in reports} <= {"finished", "failed", "cancelled"}
        assert max(peaks + [engine.peak for engine in cluster.engines.values()]) <= 4
        assert sum(not isinstance(answer, BaseException) for answer in answers) > 150
        for future in futures:
            future.release()
        await cluster.settled()


async def _disturb(cluster: InProcessCluster, draw: random.Random, n: int) -> None:
    """Pause a worker for a moment, or close one and start another of its kind."""
    name = draw.choice(sorted(cluster.cluster.workers))
    worker = cluster.cluster.workers[name]
    if draw.random() < 0.4:
        worker.status = Status.paused
        await asyncio.sleep(0.05)
        worker.status = Status.running
        return
    resources = dict(worker.state.total_resources)
    cluster.cluster.workers.pop(name)
    spec = cluster.cluster.worker_spec.pop(name)
    if draw.random() < 0.5:
        await cluster.client.retire_workers([worker.address])
    else:
        await worker.close(nanny=False, reason="stress")
    model = next((r.split(":")[1] for r in resources if r.startswith(MODEL_LABEL)), None)
    labels = {label(MODEL_LABEL, model): 1, label(ACCELERATOR_LABEL, "cpu"): 1} if model is not None else {}
    options = {**spec["options"], "resources": labels}
    cluster.cluster.worker_spec[f"{model or 'light'}-new-{n}"] = {"cls": Worker, "options": options}
    await cluster.cluster._correct_state()


@pytest.mark.cluster
@pytest.mark.parametrize("seed", range(2))
def test_every_run_ends_once_while_processes_are_killed(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    rules = [{"when": "bad", "fault": "error", "at_token": 2}]
    router = {"max_attempts": 20}
    document = deployment("small", "large", on={"cpu": 2}, light_workers=2, token_s=0.002, rules=rules, router=router)
    with (
        dask.config.set({"distributed.scheduler.validate": True}),
        kept(document, tmp_path) as (_, client),
    ):
        fm.wait_ready(client)
        futures: list[Any] = []
        for n in range(400):
            futures.append(client.compute(_bind(draw, n)))
            if draw.random() < 0.08:
                draw.choice(futures).cancel()
            if n % 40 == 20:
                _kill_one(client, draw)
            time.sleep(draw.random() * 0.02)
        outcomes: dict[str, int] = {}
        for future in futures:
            try:
                future.result(timeout=PATIENCE_S)
                outcome = "finished"
            except (CancelledError, EngineError, AttemptsExhaustedError) as error:
                outcome = type(error).__name__
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        assert outcomes["finished"] > 300, outcomes
        for future in futures:
            future.release()
        del future, futures
        until(lambda: not client.run_on_scheduler(leftovers), lambda: client.run_on_scheduler(leftovers))


def _kill_one(client: Client, draw: random.Random) -> None:
    workers = sorted(client.scheduler_info(-1)["workers"])
    if not workers:
        return  # all of them are still coming back
    try:
        pids = client.run(os.getpid, workers=[draw.choice(workers)], on_error="ignore")
    except OSError:
        return
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
