"""Engines that never load, or die while they do."""

from __future__ import annotations

import pytest
from distributed import Worker

import dask_fmware as fm
from dask_fmware.errors import DeploymentError, EngineLoadError
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware.testing.scripted import ScriptedEngine
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_workers import host, loading
from dask_fmware_workers.engines import ENGINES
from tests.cluster.flows import one


async def test_a_replica_that_cannot_load_is_reported_with_its_reason() -> None:
    document = deployment(
        "small", on={"bad": 1, "good": 1}, placements={"bad": {"load_error": "no such file: model.gguf"}}
    )
    async with InProcessCluster(document, wait=False) as cluster:
        await cluster.until(lambda: cluster.router.service(Arrivals).failed and len(cluster.router.machine.fleet) == 1)
        (failed,) = (await fm.status(cluster.client))["failed_replicas"]
        assert failed["name"] == "small-bad-0"
        assert "no such file: model.gguf" in failed["error"]
        assert failed["will_retry"] is True
        with pytest.raises(
            TimeoutError, match=r"1 of 2 replicas are not ready after 0.1 s \('small-bad-0': .*model.gguf"
        ):
            await fm.wait_ready(cluster.client, timeout_s=0.1)
        assert (await cluster.client.compute(one("x"))).model == "small"  # the other one serves


async def test_the_log_says_where_an_engine_raised_what_is_no_error_of_ours(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def without_weights(self: ScriptedEngine) -> None:
        raise KeyError("weights")

    monkeypatch.setattr(ScriptedEngine, "start", without_weights)
    async with InProcessCluster(deployment("small"), wait=False) as cluster:
        caplog.handler.setLevel("WARNING")  # local clusters of Dask silence handlers
        await cluster.until(lambda: bool(cluster.router.service(Arrivals).failed))
    assert "does not serve model 'small': KeyError: 'weights'\n" in caplog.text
    assert "in without_weights" in caplog.text


async def test_an_engine_around_another_is_known_by_its_name_in_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its profile would be kept under a name by which no plan looks for it."""
    monkeypatch.setitem(ENGINES, "around", ENGINES["scripted"])
    document = deployment("small")
    document["models"]["small"]["engine"] = "around"
    async with InProcessCluster(document) as cluster:
        (replica,) = (await fm.status(cluster.client))["replicas"]
        assert replica["engine"] == "around"


async def test_names_that_no_screen_can_show_are_written_out() -> None:
    labels = {"fm-model:small": 1, "fm-accelerator:cpu": 1, "fm-card:a\u202eb": 1}
    async with (
        InProcessCluster(deployment("small")) as cluster,
        Worker(cluster.client.scheduler.address, name="\x1b[31mred", nthreads=2, resources=labels),
    ):
        await cluster.until(lambda: len(cluster.router.machine.fleet) == 2)
        names = [(state.replica.name, state.replica.card) for state in cluster.router.machine.fleet]
        assert ("\\x1b[31mred", "a\\u202eb") in names
        assert str(await fm.status(cluster.client)).replace("\n", "").isprintable()


async def test_a_replica_with_fewer_threads_than_slots_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    labels = {"fm-model:small": 1, "fm-accelerator:cpu": 1}
    async with InProcessCluster(deployment("small", slots=3)) as cluster:
        caplog.handler.setLevel("WARNING")  # local clusters of Dask silence handlers
        async with Worker(cluster.client.scheduler.address, name="narrow", nthreads=2, resources=labels):
            await cluster.until(lambda: len(cluster.router.machine.fleet) == 2)
    assert "Worker 'narrow' has 2 threads for 3 slots of model 'small'" in caplog.text
    assert "start it with --nthreads 5" in caplog.text


async def test_a_worker_must_say_which_of_several_accelerators_it_has() -> None:
    document = deployment("small", on={"fast": 1, "slow": 1})
    async with (
        InProcessCluster(document) as cluster,
        Worker(cluster.client.scheduler.address, name="whichever", resources={"fm-model:small": 1}),
    ):
        await cluster.until(lambda: cluster.router.service(Arrivals).failed)
        (failed,) = (await fm.status(cluster.client))["failed_replicas"]
    assert (
        "deployed on fast, slow; say which of them it has by a resource such as fm-accelerator:fast=1"
        in failed["error"]
    )
    assert failed["will_retry"] is False


@pytest.mark.parametrize(
    ("card", "fault"), [({}, "its card is not named"), ({"fm-card:cpu-7": 1}, "has no card 'cpu-7'")]
)
async def test_a_worker_must_say_which_card_it_has_where_each_has_cores(card: dict[str, float], fault: str) -> None:
    document = deployment("small")
    document["accelerators"]["cpu"]["cores"] = [[0]]
    labels = {"fm-model:small": 1, "fm-accelerator:cpu": 1, **card}
    async with (
        InProcessCluster(document) as cluster,
        Worker(cluster.client.scheduler.address, name="whichever", resources=labels),
    ):
        await cluster.until(lambda: cluster.router.service(Arrivals).failed)
        (failed,) = (await fm.status(cluster.client))["failed_replicas"]
    told = f"worker 'whichever': accelerators.cpu.cores is set, and {fault}; add the resource fm-card:cpu-0=1"
    assert told in failed["error"]
    assert failed["will_retry"] is False


async def test_a_replica_whose_engine_does_not_exist_fails_wait_ready_at_once() -> None:
    document = deployment("small")
    document["models"]["small"]["engine"] = "fusion"
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(DeploymentError, match=r"replica 'small-cpu-0' .* cannot start: engine 'fusion'"):
            await fm.wait_ready(cluster.client, timeout_s=30)


async def test_a_model_file_that_is_not_there_fails_wait_ready_at_once() -> None:
    document = deployment("small")
    document["models"]["small"] |= {"engine": "llama.cpp", "arguments": {"gguf": "/nowhere/model.gguf"}}
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(DeploymentError, match=r"cannot start: llama.cpp: '/nowhere/model.gguf' does not exist"):
            await fm.wait_ready(cluster.client, timeout_s=30)
        assert (await fm.status(cluster.client))["failed_replicas"][0]["will_retry"] is False


async def test_an_engine_that_dies_while_it_loads_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    class DiesTwice(ScriptedEngine):
        async def start(self) -> None:
            starts.append(len(starts))
            if len(starts) < 3:
                raise EngineLoadError("scripted: it died while it loaded")
            await super().start()

    monkeypatch.setattr(loading, "create_engine", lambda kind, arguments: DiesTwice(**arguments))
    monkeypatch.setattr(host, "FIRST_RETRY_S", 0.01)
    async with InProcessCluster(deployment("small")) as cluster:
        assert starts == [0, 1, 2]
        assert not (await fm.status(cluster.client))["failed_replicas"]
        assert (await cluster.client.compute(one("x"))).model == "small"


async def test_a_model_of_the_catalog_serves_on_a_card_that_the_catalog_does_not_have_it_on() -> None:
    document = deployment("small")
    document["models"]["small"]["catalog"] = "Llama-3.1-8B"
    async with InProcessCluster(document) as cluster:
        (state,) = cluster.router.machine.fleet
        assert (state.replica.profile, state.replica.latency.first_token_s) == (None, 0.001)
        assert (await cluster.client.compute(one("x"))).model == "small"


async def test_a_name_that_the_catalog_does_not_have_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(loading, "create_engine", lambda kind, arguments: loaded.append(kind))
    document = deployment("small")
    document["models"]["small"]["catalog"] = "Lama-3.1-8B"
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(DeploymentError, match=r"models\.small\.on\.cpu: the catalog has no figures for model"):
            await fm.wait_ready(cluster.client, timeout_s=30)
    assert not loaded
