"""A replica that runs off its profile is noticed, told and reckoned with, on a cluster in this event loop."""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
from typing import Any

import dask
import pytest

import dask_fmware as fm
from dask_fmware.errors import EngineCrashedError
from dask_fmware.model.messages import StepsTimed
from dask_fmware.profile.arguments import arguments_digest, engine_arguments
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord, Profile, ProfileKey, Provenance, fingerprint
from dask_fmware.profile.store import ProfileStore
from dask_fmware.spec.deployment import Deployment
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.services.drift import DriftWatch
from dask_fmware_scheduler.services.provisioning import ProvisioningService

COEFFICIENTS = {"w0": 0.008, "w1": 1e-5, "w2": 1e-4, "w3": 0.0}
LAW = StepLaw.plain(**COEFFICIENTS)
DOCUMENT = {
    "accelerators": {"cpu": {"cards": 2}},
    "models": {
        "small": {
            "engine": "emulated",
            "slots": 2,
            "context_tokens": 256,
            "arguments": {"law": COEFFICIENTS, "stream_interval_s": 0.001},
            "on": {"cpu": {"replicas": 2}},
        }
    },
}


@fm.workflow
def ask(text: str) -> Any:
    return fm.Model("small")("{text}", text=text, name="ask", max_tokens=24)


@pytest.fixture
async def cluster(tmp_path):
    key = ProfileKey(
        model="small",
        accelerator="cpu",
        engine="emulated",
        engine_version=importlib.metadata.version("dask-fmware"),
        arguments=arguments_digest(engine_arguments(Deployment.model_validate(DOCUMENT), "small", "cpu")),
    )
    provenance = Provenance(kind="measured", source="a test")
    ProfileStore(tmp_path).put(Profile(key=key, law=LawRecord.of(LAW), provenance=provenance, step_tokens=2048))
    with dask.config.set({"fmware.profiles": str(tmp_path)}):
        async with InProcessCluster(DOCUMENT) as made:
            yield made
            await made.settled()


async def serve(cluster: InProcessCluster, calls: int) -> None:
    futures = cluster.client.compute([ask(text=f"call {n}") for n in range(calls)])
    await asyncio.gather(*futures)


async def status_of(cluster: InProcessCluster, name: str) -> dict[str, Any]:
    return next(r for r in (await fm.status(cluster.client))["replicas"] if r["name"] == name)


async def test_a_slowed_replica_is_told_in_status_log_and_events_and_reckoned_with(cluster, caplog) -> None:
    slow, sound = sorted(cluster.engines)
    told: list[str] = []
    cluster.client.subscribe_topic("fmware-drift", lambda event: told.append(event[1]["text"]))
    caplog.handler.setLevel("WARNING")  # local clusters of Dask silence handlers
    cluster.engines[slow].set_speed(1 / 4)  # on a busy machine both are slower than that, never faster
    while (await status_of(cluster, slow))["drift"] is None:
        await serve(cluster, 8)
    sentence = (await status_of(cluster, slow))["drift"]
    assert re.fullmatch(rf"replica {slow} on cpu runs \d+\.\d times its profile since \d\d:\d\d", sentence)
    assert "WARNING  dask_fmware.router:drift.py" in caplog.text
    assert f"replica {slow} on cpu runs" in caplog.text
    await cluster.until(lambda: any(f"replica {slow} on cpu runs" in text for text in told))
    state, other = await status_of(cluster, slow), await status_of(cluster, sound)
    assert state["correction"]["decode"] > 2
    unslowed = [r["latency"]["output_token_s"] / r["correction"]["decode"] for r in (state, other)]
    assert unslowed[0] == pytest.approx(unslowed[1], rel=0.15), "policies see what was learnt, within a step of it"


async def steps_take(cluster: InProcessCluster, name: str, times: float) -> None:
    """Let the worker of a replica report steps that took so many times their profile."""
    host = cluster.hosts[name]
    mark = fingerprint(host.loaded.replica.profile)
    host.dask.send(StepsTimed(host.dask.address, mark, ((0.1, 0.0, 0.1 * times, 10.0),) * 20).to_wire())
    await asyncio.sleep(0.01)


async def test_a_provisioner_takes_no_slow_replica_for_its_kind(cluster) -> None:
    cluster.cluster.adapt(fm.Provisioning(mode="manual", interval_s=0.05))
    service = cluster.router.service(ProvisioningService)
    await cluster.until(lambda: service._planner is not None, "it provisions")
    first = next(iter(cluster.router.machine.fleet)).replica.name
    while (await status_of(cluster, first))["correction"]["decode"] < 2.8:
        await steps_take(cluster, first, 3.0)
    usual = LAW.step_s(0, 1, 100)
    await cluster.until(lambda: service._planner.inventory.kinds["small", "cpu"].law.step_s(0, 1, 100) > 1.5 * usual)
    assert service._planner.inventory.kinds["small", "cpu"].law.step_s(0, 1, 100) < 2.5 * usual, "of two, the mean"


async def test_a_replica_that_is_well_again_is_told_too(cluster) -> None:
    name = min(cluster.engines)
    told: list[str] = []
    cluster.client.subscribe_topic("fmware-drift", lambda event: told.append(event[1]["text"]))
    while (await status_of(cluster, name))["drift"] is None:
        await steps_take(cluster, name, 3.0)
    assert (await status_of(cluster, name))["correction"]["decode"] > 2
    while (await status_of(cluster, name))["drift"] is not None:
        await steps_take(cluster, name, 1.0)
    await cluster.until(lambda: any("runs at the pace of its profile again" in text for text in told))
    while (await status_of(cluster, name))["correction"]["decode"] > 1.1:
        await steps_take(cluster, name, 1.0)


async def test_what_was_told_of_an_engine_is_not_said_to_be_over_once_that_has_died(cluster) -> None:
    name = min(cluster.engines)
    while (await status_of(cluster, name))["drift"] is None:
        await steps_take(cluster, name, 3.0)
    fleet, address = cluster.router.machine.fleet, cluster.workers[name].address
    died = fleet.get(address)

    def dead() -> None:
        raise EngineCrashedError("dead")

    cluster.engines[name].state = dead
    await cluster.until(lambda: fleet.get(address) not in (died, None), "another engine serves, after no pause")
    assert not cluster.router.service(DriftWatch)._told
    for _ in range(3):
        await steps_take(cluster, name, 1.0)
    ((_, told),) = await cluster.client.get_events("fmware-drift")
    assert "times its profile since" in told["text"]
