"""What engines say of themselves, streamed to the scheduler and shown by status."""

from __future__ import annotations

from typing import Any

import dask_fmware as fm
from dask_fmware_scheduler.services.engine_states import EngineStates
from tests.cluster.flows import one


def engine_states(cluster: Any) -> EngineStates:
    """The part of the scheduler that keeps them."""
    return next(service for service in cluster.router.services if isinstance(service, EngineStates))


async def until_told(cluster: Any, name: str, field: str, value: Any) -> None:
    engines = engine_states(cluster)
    address = next(state.replica.replica_id for state in cluster.router.machine.fleet if state.replica.name == name)
    await cluster.until(lambda: getattr(engines._last.get(address), field, None) == value, f"{name}: {field}={value}")


async def test_status_shows_what_an_engine_says_of_its_load_and_the_router_agrees(serving: Any) -> None:
    async with serving("small", slots=2) as cluster:
        await until_told(cluster, "small-cpu-0", "running", 0)
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(2)]
        await until_told(cluster, "small-cpu-0", "running", 2)
        (replica,) = (await fm.status(cluster.client))["replicas"]
        assert replica["engine_state"]["running"] == replica["running"] == engine.state().running == 2
        engine.resume()
        await cluster.client.gather(futures)
        await until_told(cluster, "small-cpu-0", "running", 0)
        for future in futures:
            future.release()


async def test_an_engine_that_died_says_nothing_any_more(serving: Any, monkeypatch: Any) -> None:
    async with serving("small") as cluster:
        await until_told(cluster, "small-cpu-0", "running", 0)
        monkeypatch.setattr("dask_fmware_workers.host.ModelHost._recover", _stay_dead)
        cluster.engines["small-cpu-0"].crash()
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: len(cluster.router.machine.fleet) == 0)
        assert engine_states(cluster).states() == {}
        await future.cancel()


async def _stay_dead(host: Any, engine: Any) -> None:
    """Close and start nothing."""
