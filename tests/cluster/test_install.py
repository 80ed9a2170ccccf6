"""Installing the runtime on clusters that are there already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Worker

import dask_fmware as fm
from dask_fmware.cluster.local import LocalModelCluster
from dask_fmware.compile import draft
from dask_fmware.compile.steps import HOST
from dask_fmware.errors import DeploymentError, NotInstalledError, VersionMismatchError
from dask_fmware.model import messages
from dask_fmware.spec.documents import load_deployment
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler import preload as scheduler_preload
from dask_fmware_scheduler.router import ReplicaRouter
from dask_fmware_workers.host import ModelHost
from tests.cluster.flows import one, rag


class _Bare(LocalModelCluster):
    """Workers with labels, and nothing of ours."""

    async def _install(self) -> None:
        pass


class _BareInProcess(InProcessCluster):
    def _made(self) -> LocalModelCluster:
        return _Bare(self._deployment, processes=False, asynchronous=True, dashboard_address=None)


@asynccontextmanager
async def bare(document: Any) -> AsyncIterator[InProcessCluster]:
    async with _BareInProcess(document, wait=False, validate=True) as cluster:
        yield cluster


async def _answers(cluster: InProcessCluster) -> None:
    future = cluster.client.compute(one("x"))
    assert (await future).model == "small"
    future.release()
    await cluster.settled()


async def _preloaded(cluster: InProcessCluster, document: Any) -> None:
    """Add a router, as a scheduler that starts with the preload does."""
    scheduler_preload._install(cluster.scheduler, load_deployment(document), None)
    await cluster.scheduler.plugins["fmware-router"].start(cluster.scheduler)


async def test_workers_that_were_there_before_become_replicas() -> None:
    document = deployment("small", on={"cpu": 2})
    async with bare(document) as cluster:
        await fm.install(cluster.client, document, stream_interval_s=50e-6)
        await fm.wait_ready(cluster.client)
        assert len((await fm.status(cluster.client))["replicas"]) == 2
        await _answers(cluster)


async def test_an_installation_leaves_no_traceback_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    document = deployment("small", on={"cpu": 2})
    async with bare(document) as cluster:
        with caplog.at_level("INFO"):
            await fm.install(cluster.client, document)
            await fm.wait_ready(cluster.client)
        assert [record.getMessage() for record in caplog.records if record.exc_info] == []
        assert "No handler" not in caplog.text


async def test_model_hosts_that_are_there_before_the_router_are_found() -> None:
    from dask_fmware_scheduler.router import ReplicaRouter
    from dask_fmware_workers.host import ModelHost

    document = fm.Deployment.model_validate(deployment("small"))
    async with bare(document) as cluster:
        await cluster.client.register_plugin(ModelHost(document))
        await cluster.until(lambda: cluster.engines)
        await cluster.client.register_plugin(ReplicaRouter(document))
        await fm.wait_ready(cluster.client)
        await _answers(cluster)


async def test_who_is_not_ready_is_named_and_which_workers_should_be() -> None:
    from dask_fmware_scheduler.router import ReplicaRouter

    async with bare(deployment("small")) as cluster:
        await fm.install(cluster.client, deployment("small", "large"))
        await cluster.until(lambda: cluster.engines)
        with pytest.raises(TimeoutError, match=r"missing: 1 of 'large' on 'cpu'; no other worker is labelled"):
            await fm.wait_ready(cluster.client, timeout_s=0.1)
    async with bare(deployment("small")) as cluster:
        await cluster.client.register_plugin(ReplicaRouter(fm.Deployment.model_validate(deployment("small"))))
        with pytest.raises(TimeoutError, match=r"'small' on 'cpu'; labelled and silent: tcp://.*: they load"):
            await fm.wait_ready(cluster.client, timeout_s=0.1)


async def test_a_replica_of_one_model_does_not_stand_in_for_one_of_another() -> None:
    async with bare(deployment("small", on={"cpu": 2})) as cluster:  # labelled so by mistake
        await fm.install(cluster.client, deployment("small", "large"))
        await cluster.until(lambda: len(cluster.router.machine.fleet) == 2)
        words = r"1 of 2 .*missing: 1 of 'large' on 'cpu'; more than asked for: 1 of 'small' on 'cpu'; no other worker"
        with pytest.raises(TimeoutError, match=words):
            await fm.wait_ready(cluster.client, timeout_s=0.1)


async def test_installing_the_same_again_changes_nothing() -> None:
    document = deployment("small", rules=[{"when": "a list", "text": "b"}])
    async with bare(document) as cluster:
        await fm.install(cluster.client, document)
        await fm.wait_ready(cluster.client)
        router, engines = cluster.router, cluster.engines
        await fm.install(cluster.client, document)
        assert cluster.router is router
        assert cluster.engines == engines


async def test_another_deployment_is_refused_and_says_what_to_do() -> None:
    async with bare(deployment("small")) as cluster:
        await fm.install(cluster.client, deployment("small"))
        with pytest.raises(DeploymentError, match=r"another deployment is installed.*fm.uninstall\(client\)"):
            await fm.install(cluster.client, deployment("small", slots=2))
        with pytest.raises(
            DeploymentError, match=r"differ in accelerators.cpu.cards, models.other, models.small.slots\)"
        ):
            await fm.install(cluster.client, deployment("small", "other", slots=2))


async def test_uninstalling_ends_what_runs_and_another_deployment_can_follow() -> None:
    first, second = deployment("small", slots=1, text="first"), deployment("small", slots=2, text="second")
    async with bare(first) as cluster:
        await fm.install(cluster.client, first)
        await fm.wait_ready(cluster.client)
        cluster.engines["small-cpu-0"].pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(3)]  # one runs, two are held
        await cluster.until(lambda: cluster.router.machine.held == 2)
        await fm.uninstall(cluster.client)
        for future in futures:
            with pytest.raises(NotInstalledError):
                await asyncio.wait_for(future.result(), 30)
        assert not cluster.engines
        with pytest.raises(NotInstalledError, match=r"fm.install\(client, deployment\)"):
            await fm.status(cluster.client)
        for future in futures:
            future.release()
        await fm.install(cluster.client, second)
        await fm.wait_ready(cluster.client)
        future = cluster.client.compute(one("x"))
        assert (await future).text == "second"
        future.release()
        await fm.uninstall(cluster.client)
        await fm.uninstall(cluster.client)


async def test_a_runtime_that_came_with_preloads_is_uninstalled_and_another_deployment_can_follow() -> None:
    first, second = deployment("small", text="first"), deployment("small", text="second")
    async with bare(first) as cluster:
        await _preloaded(cluster, first)
        for worker in cluster.workers.values():
            await worker.plugin_add(plugin=ModelHost(load_deployment(first)))
        await fm.wait_ready(cluster.client)
        await fm.uninstall(cluster.client)
        assert not cluster.hosts
        await fm.install(cluster.client, second)
        await fm.wait_ready(cluster.client)
        future = cluster.client.compute(one("x"))
        assert (await future).text == "second"
        future.release()
        await fm.uninstall(cluster.client)


async def test_what_an_installation_that_was_broken_off_has_left_is_uninstalled() -> None:
    document = deployment("small")
    async with bare(document) as cluster:
        await cluster.client.register_plugin(ReplicaRouter(load_deployment(document)))
        await fm.uninstall(cluster.client)
        await fm.install(cluster.client, document)
        await fm.wait_ready(cluster.client)
        await _answers(cluster)


async def test_an_installation_that_was_broken_off_is_completed_by_the_next() -> None:
    document = deployment("small")
    async with bare(document) as cluster:
        await cluster.client.register_plugin(ReplicaRouter(load_deployment(document)))
        await fm.install(cluster.client, document)
        await fm.wait_ready(cluster.client)
        await _answers(cluster)


async def test_workers_without_the_preload_are_given_a_host_and_the_others_keep_theirs() -> None:
    document = deployment("small", on={"cpu": 2})
    async with bare(document) as cluster:
        await _preloaded(cluster, document)
        own, of_late = (ModelHost(load_deployment(document)) for _ in range(2))
        await cluster.workers["small-cpu-0"].plugin_add(plugin=own)
        await cluster.until(lambda: cluster.engines)
        engine = cluster.engines["small-cpu-0"]
        await fm.install(cluster.client, document)
        await fm.wait_ready(cluster.client)
        assert cluster.hosts["small-cpu-0"] is own
        assert cluster.engines["small-cpu-0"] is engine, "it was not loaded again"
        labels = {"fm-model:small": 1, "fm-accelerator:cpu": 1}
        late = Worker(cluster.scheduler.address, name="late", nthreads=6, resources=labels, plugins=[of_late])
        async with late:
            assert late.plugins[HOST] is of_late
            await cluster.until(lambda: len(cluster.router.machine.fleet) == 3)
        await _answers(cluster)
        await fm.uninstall(cluster.client)
        assert not cluster.hosts


async def test_a_worker_whose_preload_has_another_deployment_serves_the_one_that_is_installed() -> None:
    first, second = deployment("small", text="first"), deployment("small", text="second")
    labels = {"fm-model:small": 1, "fm-accelerator:cpu": 1}

    async def answers(cluster: InProcessCluster) -> set[str]:
        futures = cluster.client.compute([one(f"x{i}") for i in range(8)])
        return {(await future).text for future in futures}

    async with bare(first) as cluster:
        await cluster.workers["small-cpu-0"].plugin_add(plugin=ModelHost(load_deployment(first)))
        await cluster.until(lambda: cluster.engines)
        await fm.install(cluster.client, second)
        await fm.wait_ready(cluster.client)
        (replica,) = cluster.router.machine.fleet
        assert replica.replica.incarnation == 1, "the first is told to be gone before the other loads"
        assert await answers(cluster) == {"second"}
        of_late = ModelHost(load_deployment(first))
        late = Worker(cluster.scheduler.address, name="late", nthreads=6, resources=labels, plugins=[of_late])
        async with late:
            await cluster.until(lambda: len(cluster.router.machine.fleet) == 2)
            await fm.wait_ready(cluster.client)
            assert await answers(cluster) == {"second"}


async def test_of_two_deployments_that_are_installed_at_once_one_is_refused() -> None:
    first, second = deployment("small", text="first"), deployment("small", text="second")
    async with bare(first) as cluster:
        both = await asyncio.gather(
            fm.install(cluster.client, first), fm.install(cluster.client, second), return_exceptions=True
        )
        assert sorted(map(type, both), key=str) == [type(None), DeploymentError]
        await fm.wait_ready(cluster.client)
        future = cluster.client.compute(one("x"))
        assert (await future).text == ("first" if both[0] is None else "second")
        future.release()


@fm.task
def _when_it_is_there(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return path


@fm.workflow
def late(path):
    """A call that waits for plain code."""
    return fm.Model("small")("{path}", path=_when_it_is_there(path), name="call")


async def test_a_call_that_comes_after_another_installation_ends_instead_of_being_sent_back_for_ever(
    tmp_path: Path,
) -> None:
    document = deployment("small")
    async with bare(document) as cluster:
        await fm.install(cluster.client, document)
        await fm.wait_ready(cluster.client)
        future = cluster.client.compute(late(str(tmp_path / "go")))
        await cluster.until(lambda: any(task.state == "processing" for task in cluster.scheduler.tasks.values()))
        await fm.uninstall(cluster.client)
        await fm.install(cluster.client, document)
        await fm.wait_ready(cluster.client)
        (tmp_path / "go").touch()
        with pytest.raises(NotInstalledError, match=r"node 'call'.*uninstalled while this run was under way"):
            await asyncio.wait_for(future.result(), 30)
        future.release()
        await _answers(cluster)


async def test_without_the_runtime_a_run_ends_with_the_next_step() -> None:
    async with bare(deployment("small")) as cluster:
        future = cluster.client.compute(one("x"))
        with pytest.raises(NotInstalledError, match=r"node 'call': .*fm.install\(client, deployment\)"):
            await future
        for call in (fm.report(future), fm.wait_ready(cluster.client), fm.reports(cluster.client)):
            with pytest.raises(NotInstalledError, match=r"fm\.install"):
                await call
        with pytest.raises(NotInstalledError):
            async for _ in fm.stream(future):
                pass
        future.release()


async def test_a_deployment_that_cannot_be_read_is_refused_before_anything_is_installed(tmp_path: Any) -> None:
    path = tmp_path / "deployment.yaml"
    path.write_text("models:\n  small: [1,\n")
    async with bare(deployment("small")) as cluster:
        with pytest.raises(DeploymentError, match=r"deployment.yaml.*line 3"):
            await fm.install(cluster.client, path)
        assert "fmware-router" not in cluster.scheduler.plugins


async def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    document = deployment("small", router={"policy": "psychic"})
    async with bare(document) as cluster:
        with pytest.raises(DeploymentError, match=r"psychic.*greedy"):
            await fm.install(cluster.client, document)
        with pytest.raises(NotInstalledError):
            await fm.status(cluster.client)


async def test_runs_of_a_client_of_another_version_fail_with_both_versions(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as cluster:
        monkeypatch.setattr(draft, "PROTOCOL_VERSION", 4)
        foreign = [cluster.client.compute(bound) for bound in (one("x"), rag(question="x"))]
        for future in foreign:
            with pytest.raises(VersionMismatchError, match="the client speaks message version 4, this side"):
                await future
        monkeypatch.undo()
        future = cluster.client.compute(rag(question="x"))
        assert (await future).model == "large"
        assert (await fm.status(cluster.client))["failures"] == {}
        for one_ in [*foreign, future]:
            one_.release()


async def test_a_client_of_another_version_is_told_by_the_first_question(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("small") as cluster:
        monkeypatch.setattr(messages, "PROTOCOL_VERSION", 4)
        with pytest.raises(VersionMismatchError, match=r"the scheduler speaks message version .*, this side 4"):
            await fm.status(cluster.client)
