"""The lease on a card that is measured, on a cluster in this event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from distributed import Worker
from distributed.core import Status

import dask_fmware as fm
from dask_fmware.client import card_lease, profiling
from dask_fmware.client.profiling import ProfileProgress, profile_models
from dask_fmware.errors import EngineCrashedError
from dask_fmware.profile.record import ProfileKey
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.services.leave import Leave
from tests.cluster.shared_card import document

pytest.importorskip("scipy")

CARD = "cpu-0"


def labels(model: str) -> dict[str, int]:
    """Resources of a worker that shares the card."""
    return {f"fm-model:{model}": 1, "fm-accelerator:cpu": 1, f"fm-card:{CARD}": 1}


@fm.workflow
def ask(text: str) -> Any:
    return fm.Model("large")("{text}", text=text, name="ask", max_tokens=8)


@pytest.fixture
async def cluster():
    async with InProcessCluster(document()) as made:
        yield made


async def test_a_lease_ends_by_itself(cluster) -> None:
    (state, *_others) = cluster.router.machine.fleet
    cluster.router.service(Leave).drain([state.replica.replica_id], 0.01)
    assert state.standing.is_draining
    await cluster.until(lambda: not state.standing.is_draining, "the replica is back")


async def test_a_lease_ends_only_for_who_took_it(cluster) -> None:
    (state, *_others) = cluster.router.machine.fleet
    leave, workers = cluster.router.service(Leave), [state.replica.replica_id]
    assert leave.measure(CARD, 60, "one") == {"measured_by": "", "calls": 0}
    assert leave.measure(CARD, 60, "two")["measured_by"] == "one"
    leave.measure(CARD, 0, "two")
    assert state.standing.is_draining
    leave.drain(workers, 60)  # the provisioner is refused nothing
    leave.measure(CARD, 0, "one")
    assert state.standing.is_draining
    leave.drain(workers, 0)
    assert not state.standing.is_draining


async def test_a_lease_outlasts_a_pause_of_its_worker_and_a_crash_of_its_engine(cluster) -> None:
    (worker,) = [one for name, one in cluster.workers.items() if name == "small-cpu-0"]
    leave, fleet = cluster.router.service(Leave), cluster.router.machine.fleet
    leave.measure(CARD, 60, "one")
    for status in (Status.paused, Status.running):
        worker.status = status
        await cluster.until(lambda wanted=status: cluster.scheduler.workers[worker.address].status == wanted)
    await asyncio.sleep(0)  # the router looks a turn later
    died = fleet.get(worker.address)
    assert died.standing.is_draining

    def dead() -> None:
        raise EngineCrashedError("dead")

    cluster.engines["small-cpu-0"].state = dead
    await cluster.until(lambda: fleet.get(worker.address) not in (died, None), "another engine serves, after no pause")
    assert fleet.get(worker.address).standing.is_draining
    leave.measure(CARD, 0, "one")
    assert not fleet.get(worker.address).standing.is_draining


async def test_who_finds_a_card_measured_is_told_by_whom(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(card_lease, "LEASE_S", 0.1)  # so long it waits, and a second
    cluster.router.service(Leave).measure(CARD, 60, "a profiler on alpha, process 7")
    (made,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=1)
    assert made.state == "failed"
    assert "the card of replica 'small-cpu-0' is measured by a profiler on alpha, process 7" in made.reason
    assert all(state.standing.is_draining for state in cluster.router.machine.fleet)


async def test_two_profilers_measure_one_after_the_other(cluster, tmp_path) -> None:
    measured: list[set[str]] = []

    def look(_progress: ProfileProgress) -> None:
        leases = cluster.router.service(Leave)._ends.values()
        measured.append({holder for ends in leases for holder in ends})

    runs = [
        profile_models(cluster.client, name, store=tmp_path, repeats=1, progress=look) for name in ("small", "large")
    ]
    found = await asyncio.gather(*runs)
    assert [item.state for (item,) in found] == ["measured", "measured"]
    assert all(len(holders) == 1 for holders in measured)
    assert len(set.union(*measured)) == 2
    assert not any(state.standing.is_draining for state in cluster.router.machine.fleet)


async def test_a_run_that_lost_its_card_to_another_stops(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(card_lease, "RENEW_S", 0.01)
    leave = cluster.router.service(Leave)

    def lose(progress: ProfileProgress) -> None:
        if progress.done == 1:
            leave.close()
            leave._ends.clear()
            leave.measure(CARD, 60, "a profiler on alpha, process 7")

    (made,) = await profile_models(cluster.client, ["small"], store=tmp_path, repeats=2, progress=lose)
    assert (made.state, made.reason[:40]) == ("failed", "a profiler on alpha, process 7 measures ")
    assert all(state.standing.is_draining for state in cluster.router.machine.fleet)


async def test_who_gives_up_while_calls_run_on_the_card_gives_it_back(cluster) -> None:
    stop, drain = threading.Event(), cluster.scheduler.handlers["fmware_drain"]

    def busy(**asked: Any) -> dict[str, Any]:
        stop.set()
        return {**drain(**asked), "calls": 1}

    cluster.scheduler.handlers["fmware_drain"] = busy
    states = list(cluster.router.machine.fleet)
    lease = card_lease.CardLease(cluster.client, CARD, "small-cpu-0", stop)
    with pytest.raises(asyncio.CancelledError):
        async with lease:
            pass
    assert not any(state.standing.is_draining for state in states)


async def test_a_worker_measures_for_one_at_a_time(cluster) -> None:
    worker = cluster.workers["small-cpu-0"]
    ask = worker.handlers["fmware_profile"]
    question = {"kind": "streams", "background": [(16, 20)], "probes": [], "lead_tokens": 0, "seed": 1}
    first = asyncio.create_task(ask(question=question))
    await asyncio.sleep(0)
    assert "is being measured already" in (await ask(question={"kind": "facts"}))["error"]
    assert "traces" in await first
    assert "slots" in await ask(question={"kind": "facts"})


async def test_a_replica_that_comes_to_a_card_that_is_measured_gets_no_calls_before_the_end() -> None:
    made = document()
    made["models"]["large"]["on"]["cpu"]["replicas"] = 0
    async with InProcessCluster(made) as cluster:
        leave, fleet = cluster.router.service(Leave), cluster.router.machine.fleet
        leave.measure(CARD, 60, "one")
        held = cluster.client.compute(ask(text="x"))
        await cluster.until(lambda: cluster.router.machine.held == 1)
        async with Worker(cluster.client.scheduler.address, name="late", nthreads=4, resources=labels("large")):
            await cluster.until(lambda: len(fleet) == 2)
            assert all(state.standing.is_draining for state in fleet)
            await asyncio.sleep(0.05)
            assert not held.done()
            assert leave.measure(CARD, 60, "one") == {"measured_by": "", "calls": 0}
            leave.measure(CARD, 0, "one")
            assert (await held).model == "large"


async def test_a_replica_that_moved_while_another_was_measured_is_asked_where_it_is(
    cluster, tmp_path, monkeypatch
) -> None:
    one, opened = profiling._Profiling.one, []

    async def after_a_move(run: Any, key: ProfileKey) -> Any:
        if key.model == "small":
            await cluster.workers["small-cpu-0"].close()
            address = cluster.client.scheduler.address
            opened.append(await Worker(address, name="small-cpu-9", nthreads=4, resources=labels("small")))
            await cluster.until(lambda: "small" in cluster.router.machine.fleet.models)
        return await one(run, key)

    monkeypatch.setattr(profiling._Profiling, "one", after_a_move)
    found = await profile_models(cluster.client, store=tmp_path, repeats=1)
    assert [(item.key.model, item.state) for item in found] == [("large", "measured"), ("small", "measured")]
    await opened[0].close()
