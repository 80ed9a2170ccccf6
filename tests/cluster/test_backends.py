"""Clusters that are no `LocalModelCluster`, by fakes: jobs of dask-jobqueue, groups of dask-kubernetes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from distributed import Client, LocalCluster, Status, Worker
from distributed.deploy.spec import ProcessInterface

import dask_fmware as fm
from dask_fmware.cluster.backends import GroupBackend, SpecBackend
from dask_fmware.cluster.places import place_of
from dask_fmware.cluster.provisioner import Provisioner
from dask_fmware.cluster.templates import labels
from dask_fmware.errors import DeploymentError, RuntimeFaultError
from dask_fmware.spec.deployment import Deployment
from dask_fmware.testing import InProcessCluster, deployment

m = fm.Model("m")
QUICK: dict[str, Any] = {"interval_s": 0.05, "cool_down_s": 0.0, "idle_s": 0.5, "retry_s": 0.1}


@fm.workflow
def ask(question: str) -> Any:
    return m("{question}", question=question, max_tokens=8)


def document() -> dict[str, Any]:
    made = deployment("m", token_s=0.01)
    made["accelerators"]["cpu"]["cards"] = 3
    made["models"]["m"]["on"]["cpu"]["replicas"] = 0
    return made


@pytest.fixture
async def world() -> AsyncIterator[InProcessCluster]:
    async with InProcessCluster(document()) as made:
        yield made


async def ready(world: InProcessCluster, wanted: int) -> None:
    async with asyncio.timeout(30):
        while True:
            state = (await fm.status(world.client))["provisioning"]
            if state is not None and sum(kind["ready"] for kind in state["replicas"]) == wanted:
                return
            await asyncio.sleep(0.02)


async def test_a_replica_is_asked_for_from_the_moment_that_its_start_is_begun(world: InProcessCluster) -> None:
    def spec(replica: Any) -> dict[str, Any]:
        return {"cls": Worker, "options": {"nthreads": 1, "resources": labels(replica)}}

    backend = SpecBackend(world.cluster, Deployment.model_validate(document()), spec, 60.0)
    assert backend.start("m", "cpu")
    assert [one["name"] for one in backend.requested()] == ["m-cpu-0"]
    await backend.close()


# -- jobs -------------------------------------------------------------------------------------------


class FakeJob(ProcessInterface):
    """Takes what `dask_jobqueue.Job` takes, and starts its worker at once."""

    def __init__(
        self, scheduler: str, name: str, *, queue: str, cores: int, memory: str, processes: int,
        worker_extra_args: list[str],
    ) -> None:  # fmt: skip
        super().__init__(scheduler=scheduler, name=name)
        self.name, self.queue, self.processes = name, queue, processes
        given = dict(zip(worker_extra_args[::2], worker_extra_args[1::2], strict=True))
        resources = dict(part.split("=") for part in given["--resources"].strip('"').split())
        self.memory_limit = given["--memory-limit"]
        self._made = lambda: Worker(
            scheduler, name=name, nthreads=cores, memory_limit=self.memory_limit,
            resources={key: float(amount) for key, amount in resources.items()},
        )  # fmt: skip

    async def start(self) -> None:
        self.worker = await self._made()
        await super().start()

    async def close(self) -> None:
        if self.worker.status is Status.running:  # else Dask has closed it
            await self.worker.close()
        await super().close()


async def test_each_replica_is_a_job_with_its_labels(world: InProcessCluster) -> None:
    cluster = world.cluster
    cluster.job_cls = FakeJob
    cluster._job_kwargs = {"queue": "gpu", "cores": 1, "memory": "1GB", "processes": 1, "worker_extra_args": None}
    fm.provision(cluster, fm.Provisioning(mode="manual", **QUICK), deployment=document())
    await ready(world, 0)
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await ready(world, 2)
    jobs = [job for job in cluster.workers.values() if isinstance(job, FakeJob)]
    assert [(job.name, job.queue, job.processes, job.memory_limit) for job in jobs] == [
        ("m-cpu-0", "gpu", 1, "0"),  # the engine's memory is not Dask's
        ("m-cpu-1", "gpu", 1, "0"),
    ]
    assert (await world.client.compute(ask(question="q"))).text
    await fm.scale(world.client, {"m": {"cpu": 0}})
    await ready(world, 0)
    await world.until(lambda: not any(isinstance(job, FakeJob) for job in cluster.workers.values()))


async def test_a_spec_that_does_not_say_what_its_worker_hosts_is_refused(world: InProcessCluster) -> None:
    fm.provision(
        world.cluster, fm.Provisioning(mode="manual", **QUICK), deployment=document(),
        worker_spec=lambda replica: {"cls": Worker, "options": {"nthreads": 8}},
    )  # fmt: skip
    await ready(world, 0)
    await fm.scale(world.client, {"m": {"cpu": 1}})
    async with asyncio.timeout(20):
        while "gives it no resource fm-model:m; give it those" not in repr(await fm.status(world.client)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_scaler_of_dask_is_refused_while_replicas_are_provisioned() -> None:
    def provision() -> Provisioner:
        return fm.provision(cluster, fm.Provisioning(mode="manual", **QUICK), deployment=document())

    async with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True, set_as_default=False) as client,
    ):
        await fm.install(client, document())
        provision()
        ours = provision()  # as when a cell is run again
        with pytest.raises(DeploymentError, match=r"call cluster\.scale\(n\) for the other workers"):
            cluster.adapt(minimum=1, maximum=3)
        await ours.ready()
        assert ours.state != "stopped"
        ours.stop()
        assert not isinstance(cluster.adapt(minimum=1, maximum=1), Provisioner)


async def test_a_cluster_without_a_runtime_is_told_what_to_do_and_looked_after_when_it_has_one() -> None:
    async with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True, set_as_default=False) as client,
    ):
        ours = fm.provision(cluster, fm.Provisioning(mode="manual", **QUICK), deployment=document())
        with pytest.raises(RuntimeFaultError, match=r"no dask-fmware runtime; call fm\.install\(client, deployment\)"):
            await ours.ready()
        async with asyncio.timeout(30):
            await fm.install(client, document())
            while ours.error is not None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
            await fm.uninstall(client)
            while "call fm.install" not in str(ours.error):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)


# -- groups -----------------------------------------------------------------------------------------


class FakeGroups:
    """The part of `dask_kubernetes.operator.KubeCluster` that is used; its operator lets Dask choose and retire."""

    def __init__(self, world: InProcessCluster) -> None:
        self.world = world
        self.loop, self.status, self.name = world.cluster.loop, Status.running, "fake"
        self.scheduler_comm = world.cluster.scheduler_comm
        self.groups: dict[str, dict[str, Worker]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self._options: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        self._adaptive: Any = None
        self._number = 0
        self._lock = asyncio.Lock()
        self._operations: list[asyncio.Task[None]] = []

    @property
    def scheduler_info(self) -> Any:
        return self.world.scheduler.identity()

    async def add_worker_group(self, name: str, n_workers: int, resources: dict[str, float]) -> None:
        self.calls.append(("add", name, n_workers))
        if name in self.groups:
            raise ValueError(f"worker group {name} exists")
        self.groups[name], self._options[name] = {}, {"resources": resources}
        self._operate(name, n_workers)

    async def scale(self, n: int, worker_group: str) -> None:
        self.calls.append(("scale", worker_group, n))
        if worker_group not in self.groups:
            raise ValueError(f"no worker group {worker_group}")
        self._operate(worker_group, n)

    def _operate(self, name: str, n: int) -> None:
        """The operator hears of a change later, and goes on whatever becomes of who asked."""
        if self._sizes.get(name) == n:
            return
        self._sizes[name] = n
        self._operations.append(asyncio.ensure_future(self._bring(name, n)))

    async def _bring(self, name: str, n: int) -> None:
        async with self._lock:
            group = self.groups[name]
            if n < len(group):
                for retired in (await self.world.scheduler.retire_workers(n=len(group) - n)).values():
                    await group.pop(retired["name"]).close()
            while len(group) < n:
                self._number += 1
                key = f"pod-{self._number}"
                group[key] = await Worker(
                    self.world.scheduler.address, name=key, nthreads=8, memory_limit=0, **self._options[name]
                )

    async def close(self) -> None:
        self._adaptive.stop()
        await asyncio.gather(*self._operations)
        for group in self.groups.values():
            for worker in group.values():
                await worker.close()


@pytest.fixture
async def pods(world: InProcessCluster) -> AsyncIterator[FakeGroups]:
    made = FakeGroups(world)
    yield made
    await made.close()


def provisioned(pods: FakeGroups) -> None:
    fm.provision(
        pods, fm.Provisioning(mode="manual", **QUICK), deployment=document(),
        group_options=lambda replica: {"resources": labels(replica)},
    )  # fmt: skip


async def test_replicas_are_pods_of_a_group_for_each_model_and_accelerator(
    world: InProcessCluster, pods: FakeGroups
) -> None:
    provisioned(pods)
    await ready(world, 0)
    await fm.scale(world.client, {"m": {"cpu": 3}})
    await ready(world, 3)
    assert pods.calls[0][:2] == ("add", "fm-m-cpu")
    assert len({state.replica.card for state in world.router.machine.fleet}) == 3
    futures = [world.client.compute(ask(question=f"q{i}")) for i in range(12)]
    await fm.scale(world.client, {"m": {"cpu": 1}})
    await asyncio.gather(*futures)
    reports = [await fm.report(future) for future in futures]
    assert all(len(call.attempts) == 1 for report in reports for call in report.data.calls)
    await ready(world, 1)
    await world.until(lambda: pods.calls[-1] == ("scale", "fm-m-cpu", 1))


async def test_a_new_manager_goes_on_with_the_groups_of_the_old_one(world: InProcessCluster, pods: FakeGroups) -> None:
    provisioned(pods)
    await ready(world, 0)
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await ready(world, 2)
    provisioned(pods)
    await fm.scale(world.client, {"m": {"cpu": 3}})
    await ready(world, 3)
    assert pods.calls[-1] == ("scale", "fm-m-cpu", 3)
    await fm.scale(world.client, {"m": {"cpu": 0}})
    await ready(world, 0)
    provisioned(pods)  # while pods of the old one may be leaving
    await fm.scale(world.client, {"m": {"cpu": 1}})
    await ready(world, 1)
    await world.until(lambda: pods.calls[-1] == ("scale", "fm-m-cpu", 1))


async def test_a_group_that_grows_while_it_is_told_its_size_is_told_again() -> None:
    told: list[int] = []

    class Groups:
        def __init__(self) -> None:
            self.scheduler_info: dict[str, Any] = {"workers": {}}

        def add_worker_group(self, name: str, n_workers: int, **options: Any) -> None:
            told.append(n_workers)
            if n_workers == 1:  # what is run next is behind the task's last look, and before its end is known
                asyncio.get_running_loop().call_soon(backend.resize, "m", "cpu", 2)

        def scale(self, count: int, worker_group: str) -> None:
            told.append(count)

    backend = GroupBackend(Groups(), Deployment.model_validate(document()), lambda replica: {})
    backend.resize("m", "cpu", 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (told[-1], backend.pools()) == (2, [("m", "cpu", 2)])


class NoGroups:
    scheduler_info: ClassVar[dict[str, Any]] = {"workers": {}}

    def add_worker_group(self) -> None: ...


def test_groups_that_would_share_a_name_are_refused() -> None:
    made = document()
    made["models"]["M"] = made["models"]["m"]
    with pytest.raises(DeploymentError, match=r"models.M.on.cpu and models.m.on.cpu would share the worker group"):
        GroupBackend(NoGroups(), Deployment.model_validate(made), lambda replica: {})


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(DeploymentError, match=r"are no options; give them as fm.Provisioning"):
        fm.provision(NoGroups(), {"quantile": 0.9}, deployment=document(), group_options=lambda replica: {})  # type: ignore[arg-type]


def test_a_worker_whose_name_ends_in_no_number_is_no_replica() -> None:
    made = Deployment.model_validate(document())
    assert place_of(made, "m-cpu-²") is None
    assert place_of(made, "m-cpu-2") is not None
