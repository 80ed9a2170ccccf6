"""A model whose workers have all given up: runs fail and say why, instead of waiting for ever."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from distributed.worker import Worker

import dask_fmware as fm
from dask_fmware.cluster.dask_internals import start_worker
from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware.runtime import ReplicaGone
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware.testing.scripted import ScriptedEngine
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from dask_fmware_scheduler.services.unserved import Unserved, _in_words
from dask_fmware_workers import loading
from tests.cluster.flows import one
from tests.runtime.builders import Driver, replica

WHY = r"no replica of model 'small' will come: small-cpu-0 gave up: .*'/nowhere/model.gguf' does not exist"


def broken() -> dict[str, Any]:
    document = deployment("small")
    document["models"]["small"] |= {"engine": "llama.cpp", "arguments": {"gguf": "/nowhere/model.gguf"}}
    return document


async def test_a_run_that_waits_and_one_that_comes_later_fail_with_the_reason() -> None:
    async with InProcessCluster(broken(), wait=False) as cluster:
        waits = cluster.client.compute(one("x"))
        with pytest.raises(EngineLoadError, match=WHY):
            await waits
        later = cluster.client.compute(one("y"))
        with pytest.raises(EngineLoadError, match=WHY):
            async for _ in fm.stream(later):
                pass
        report = await fm.report(later)
        assert report.data.state == "failed"
        assert "small-cpu-0 gave up" in report.data.reason
        assert str(await fm.explain(later)).count("small-cpu-0 gave up") == 1


class _Gate(ScriptedEngine):
    """Waits until it may load; one that is told not to load gives up."""

    opened: asyncio.Event

    async def start(self) -> None:
        if self.load_error:
            raise DeploymentError("scripted: wrong for good")
        await self.opened.wait()
        await super().start()


async def test_a_run_waits_while_another_replica_of_its_model_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    _Gate.opened = asyncio.Event()
    monkeypatch.setattr(loading, "create_engine", lambda kind, arguments: _Gate(**arguments))
    document = deployment("small", on={"bad": 1, "good": 1}, placements={"bad": {"load_error": "x"}})
    async with InProcessCluster(document, wait=False) as cluster:
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: cluster.router.service(Arrivals).failed and cluster.router.machine.held)
        _Gate.opened.set()
        assert (await future).model == "small"


async def test_a_run_waits_again_once_another_worker_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _Gate.opened = asyncio.Event()
    document = deployment("small", placements={"cpu": {"load_error": "x"}})
    monkeypatch.setattr(loading, "create_engine", lambda kind, arguments: _Gate(**arguments))
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(EngineLoadError, match="wrong for good"):
            await cluster.client.compute(one("x"))
        monkeypatch.setattr(
            loading, "create_engine", lambda kind, arguments: _Gate(**{**arguments, "load_error": None})
        )
        labels = {"fm-model:small": 1.0, "fm-accelerator:cpu": 1.0, "fm-card:cpu-1": 1.0}
        spec = {"cls": Worker, "options": {"nthreads": 9, "resources": labels}}
        await start_worker(cluster.cluster, "mended", spec, 10.0)
        future = cluster.client.compute(one("y"))
        await cluster.until(lambda: cluster.router.machine.held)
        _Gate.opened.set()
        assert (await future).model == "small"


async def test_whoever_starts_replicas_may_start_another() -> None:
    document = broken()
    document["accelerators"]["cpu"]["cards"] = 2
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(EngineLoadError, match=WHY):
            await cluster.client.compute(one("x"))
        cluster.cluster.adapt(fm.Provisioning(mode="manual", interval_s=0.05))
        await cluster.until(lambda: cluster.router.service(ProvisioningService).is_asked)
        future = cluster.client.compute(one("y"))
        await cluster.until(lambda: cluster.router.machine.held)
        await future.cancel()


def test_a_model_whose_replica_came_after_all_and_failed_for_good_is_given_up_again() -> None:
    """The machine knows what it has given up, also when a replica that came has changed that without a word here."""
    driver, failed = Driver(), {"tcp://x": {"name": "x", "model": "small", "error": "no file", "will_retry": False}}
    asked = SimpleNamespace(failed=failed, is_asked=False)
    router = SimpleNamespace(
        machine=driver.machine,
        service=lambda _: asked,
        take=driver.tell,
        deployment=SimpleNamespace(models={}),
        dask=SimpleNamespace(workers=list),
    )
    unserved = Unserved(cast(Any, router))
    unserved.look("small")
    assert list(driver.machine.hopeless.models) == ["small"]
    driver.ready(replica("x"))
    driver.tell(ReplicaGone("tcp://x"))
    assert not driver.machine.hopeless.models
    unserved.look("small")
    driver.start("a")
    assert driver.state("a") == "failed"


def test_equal_reasons_are_said_once() -> None:
    said = _in_words([{"name": f"r{n}", "error": "no file" if n else "no room"} for n in range(6)])
    assert said == "r0 gave up: no room; r1, r2, r3 and 2 more gave up: no file"
