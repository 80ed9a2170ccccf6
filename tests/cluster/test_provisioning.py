from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from distributed import Client
from distributed.deploy.spec import ProcessInterface

import dask_fmware as fm
from dask_fmware.cluster.provisioner import Provisioner
from dask_fmware.cluster.templates import labels
from dask_fmware.errors import DeploymentError
from dask_fmware.provisioning import Plan, Planner
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware_scheduler.services.provisioning import ProvisioningService

m = fm.Model("m")


@fm.workflow
def ask(question: str) -> Any:
    return m("{question}", question=question, max_tokens=8)


QUICK: dict[str, Any] = {"interval_s": 0.05, "cool_down_s": 0.0, "idle_s": 0.5, "retry_s": 0.2}


def document(replicas: int = 1, cards: int = 4, **more: Any) -> dict[str, Any]:
    made = deployment("m", on={"cpu": replicas or 1}, **more)
    made["accelerators"]["cpu"]["cards"] = cards
    made["models"]["m"]["on"]["cpu"]["replicas"] = replicas
    return made


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[InProcessCluster]:
    async with InProcessCluster(getattr(request, "param", document())) as made:
        yield made


async def numbers(world: InProcessCluster) -> tuple[int, int, int]:
    """Desired, requested and ready replicas."""
    state = (await fm.status(world.client))["provisioning"]
    if state is None:
        return -1, -1, -1
    kinds = state["replicas"]
    return (sum(k["desired"] for k in kinds), sum(k["requested"] for k in kinds), sum(k["ready"] for k in kinds))


async def reached(world: InProcessCluster, *wanted: int) -> None:
    async with asyncio.timeout(30):
        while await numbers(world) != wanted:  # noqa: ASYNC110 - the status is polled as users do
            await asyncio.sleep(0.02)


def by_hand(world: InProcessCluster, **more: Any) -> Provisioner:
    made = world.cluster.adapt(fm.Provisioning(mode="manual", **{**QUICK, **more}))
    assert isinstance(made, Provisioner)
    return made


async def test_scaling_by_hand_starts_and_stops_and_says_why(world: InProcessCluster) -> None:
    by_hand(world)
    await reached(world, 1, 1, 1)
    await fm.scale(world.client, {"m": {"cpu": 3}})
    await reached(world, 3, 3, 3)
    assert sorted(world.engines) == ["m-cpu-0", "m-cpu-1", "m-cpu-2"]
    await fm.scale(world.client, {"m": {"cpu": 1}})
    await reached(world, 1, 1, 1)
    state = (await fm.status(world.client))["provisioning"]
    assert [step["step"] for step in state["steps"]] == ["start", "start", "drain", "drain", "stop", "stop"]
    assert all(step["reason"] for step in state["steps"])
    events = await world.client.get_events("fmware-provisioning")
    assert [event["step"] for _, event in events] == [step["step"] for step in state["steps"]]
    await world.until(lambda: len(world.cluster.worker_spec) == 2)  # with the light worker


async def test_fm_provision_knows_the_deployment_and_the_workers_of_a_local_cluster(world: InProcessCluster) -> None:
    ours = fm.provision(world.cluster, fm.Provisioning(mode="manual", **QUICK))
    await reached(world, 1, 1, 1)
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await reached(world, 2, 2, 2)
    by_hand(world)  # and gives way to its adapt
    assert ours.state == "stopped"


async def test_who_waits_for_replicas_on_other_cards_waits_until_they_have_loaded() -> None:
    made = deployment("m", on={"L4": 2, "A100": 1}, placements={"A100": {"load_s": 0.3}})
    made["accelerators"] = {"L4": {"cards": 2, "price_per_hour": 1.0}, "A100": {"cards": 2, "price_per_hour": 4.0}}
    made["models"]["m"]["on"]["A100"]["replicas"] = 0
    async with InProcessCluster(made) as world:
        by_hand(world)
        await reached(world, 2, 2, 2)
        await fm.scale(world.client, {"m": {"L4": 0, "A100": 2}})
        kinds = (await fm.status(world.client))["provisioning"]["replicas"]
        assert {kind["accelerator"]: kind["desired"] for kind in kinds} == {"A100": 2, "L4": 0}, "before it is planned"
        await fm.wait_ready(world.client)
        serving = [s.replica.accelerator for s in world.router.machine.fleet if not s.standing.is_draining]
        assert serving.count("A100") == 2


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set no plan is ready, as the first one is not at once, which loads the solver."""
    plan, asked = Planner.plan, threading.Event()

    def slowly(planner: Planner, *seen: Any) -> Plan:
        asked.wait(10)
        return plan(planner, *seen)

    monkeypatch.setattr(Planner, "plan", slowly)
    return asked


async def test_before_the_first_plan_nobody_knows_how_many_replicas_to_wait_for(asked: threading.Event) -> None:
    async with InProcessCluster(document(0), wait=False) as world:
        world.cluster.adapt(fm.Provisioning(**QUICK, models={"m": {"min_replicas": 1}}))
        await world.until(lambda: world.router.service(ProvisioningService).is_asked)
        with pytest.raises(TimeoutError, match=r"no plan of replicas after 0.2 s \(it is being made\)"):
            await fm.wait_ready(world.client, timeout_s=0.2)
        asked.set()
        await fm.wait_ready(world.client)
        assert sorted(world.engines) == ["m-cpu-0"]


async def test_more_than_may_be_paid_for_is_not_asked_for() -> None:
    priced = document()
    priced["accelerators"]["cpu"]["price_per_hour"] = 1.0
    async with InProcessCluster(priced) as world:
        by_hand(world, max_cost_per_hour=2.5)
        await reached(world, 1, 1, 1)
        with pytest.raises(DeploymentError, match=r"would cost 3 an hour, max_cost_per_hour is 2.5; lower"):
            await fm.scale(world.client, {"m": {"cpu": 3}})
        await fm.scale(world.client, {"m": {"cpu": 2}})
        await reached(world, 2, 2, 2)


async def test_models_that_are_not_named_keep_their_replicas_also_before_the_first_plan(
    asked: threading.Event,
) -> None:
    made = deployment("m", "n")
    made["accelerators"]["cpu"]["cards"] = 3
    async with InProcessCluster(made) as world:
        world.cluster.adapt(fm.Provisioning(**{**QUICK, "idle_s": 60.0}))
        await fm.scale(world.client, {"m": {"cpu": 2}})
        asked.set()
        await reached(world, 3, 3, 3)
        assert sorted(world.engines) == ["m-cpu-0", "m-cpu-2", "n-cpu-1"]
        steps = (await fm.status(world.client))["provisioning"]["steps"]
        assert [step["step"] for step in steps] == ["start"]


@pytest.mark.parametrize("world", [document(2)], indirect=True)
async def test_a_replica_is_drained_before_it_is_stopped_and_no_call_runs_twice(world: InProcessCluster) -> None:
    by_hand(world)
    await reached(world, 2, 2, 2)
    engines = world.engines.values()
    for engine in engines:
        engine.pause()
    futures = [world.client.compute(ask(question=f"q{i}")) for i in range(8)]
    await world.until(lambda: sum(len(s.running) for s in world.router.machine.fleet) == 8)
    await fm.scale(world.client, {"m": {"cpu": 0}})
    await world.until(lambda: all(state.standing.is_draining for state in world.router.machine.fleet))
    assert sum(len(state.running) for state in world.router.machine.fleet) == 8
    for engine in engines:
        engine.resume()
    await asyncio.gather(*futures)
    await reached(world, 0, 0, 0)
    reports = [await fm.report(future) for future in futures]
    assert all(len(call.attempts) == 1 for report in reports for call in report.data.calls)
    assert [(await future).text for future in futures]  # results have left with their replicas' data


@pytest.mark.parametrize("world", [document(0)], indirect=True)
async def test_a_call_of_a_model_without_replicas_is_held_served_and_explained(world: InProcessCluster) -> None:
    future = world.client.compute(ask(question="anyone?"))
    await world.until(lambda: world.router.machine.held == 1)
    world.cluster.adapt(fm.Provisioning(**QUICK))
    await future
    report = await fm.report(future)
    assert "no replica of model 'm' was ready" in str(report)
    await reached(world, 0, 0, 0)  # and to zero again


async def test_a_start_that_fails_is_told_and_tried_again_later(world: InProcessCluster) -> None:
    by_hand(world)
    await reached(world, 1, 1, 1)
    make, failures = world.cluster.replica_worker, iter([True, True, False])

    def sometimes(replica: Any) -> Any:
        if next(failures, False):
            raise OSError("no such queue")
        return make(replica)

    world.cluster._adaptive.backend._worker_spec = sometimes
    await fm.scale(world.client, {"m": {"cpu": 2}})
    async with asyncio.timeout(20):
        while "no such queue" not in repr(await fm.status(world.client)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await reached(world, 2, 2, 2)
    steps = (await fm.status(world.client))["provisioning"]["steps"]
    assert [step["step"] for step in steps] == ["start", "stop", "start", "stop", "start"]
    assert "no such queue" in steps[1]["reason"]


@pytest.mark.parametrize("world", [document(0)], indirect=True)
async def test_a_slow_start_holds_up_no_other(world: InProcessCluster) -> None:
    by_hand(world)
    release, make = asyncio.Event(), world.cluster.replica_worker

    def slow(replica: Any) -> Any:
        spec = dict(make(replica))
        if replica.name == "m-cpu-0":

            class Slow(spec["cls"]):  # type: ignore[misc]
                async def start(self) -> Any:
                    await release.wait()
                    return await super().start()

            spec["cls"] = Slow
        return spec

    world.cluster._adaptive.backend._worker_spec = slow
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await reached(world, 2, 2, 1)
    release.set()
    await reached(world, 2, 2, 2)


async def test_a_lost_replica_is_replaced(world: InProcessCluster) -> None:
    by_hand(world)
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await reached(world, 2, 2, 2)
    await world.workers["m-cpu-1"].close()
    await world.until(lambda: any(worker.name == "m-cpu-2" for worker in world.scheduler.workers.values()))
    await reached(world, 2, 2, 2)  # on another card, as its own may be broken


async def test_a_new_manager_takes_over_what_the_old_one_started(world: InProcessCluster) -> None:
    old = by_hand(world)
    await fm.scale(world.client, {"m": {"cpu": 3}})
    await reached(world, 3, 3, 3)
    new = by_hand(world)
    assert old.state == "stopped"
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await reached(world, 2, 2, 2)
    assert new.error is None


async def test_a_manager_that_stops_while_it_is_answered_starts_nothing(world: InProcessCluster) -> None:
    manager = by_hand(world)
    await reached(world, 1, 1, 1)
    ask, answered, go_on = world.scheduler.handlers["fmware_provision"], asyncio.Event(), asyncio.Event()
    asked = asyncio.Event()  # here, so that no look from before is still being answered

    async def slow(**question: Any) -> Any:
        asked.set()
        answer = await ask(**question)
        if answer["steps"]:
            answered.set()
            await go_on.wait()
        return answer

    world.scheduler.handlers["fmware_provision"] = slow
    await asyncio.wait_for(asked.wait(), 30)
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await asyncio.wait_for(answered.wait(), 30)
    manager.stop()
    go_on.set()
    await world.until(lambda: not manager._looking.locked())
    assert "m-cpu-1" not in world.cluster.worker_spec


class Hangs(ProcessInterface):  # type: ignore[misc]
    """A worker that never starts."""

    def __init__(self, scheduler: str, name: str, *, resources: dict[str, float]) -> None:
        super().__init__(scheduler=scheduler, name=name)

    async def start(self) -> None:
        await asyncio.Event().wait()


def in_a_notebook(stop: Callable[[], None]) -> None:
    """Call something where a loop runs that is not that of the cluster."""

    async def cell() -> None:
        stop()

    asyncio.run(cell())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("call", [lambda stop: stop(), in_a_notebook], ids=["script", "notebook"])
def test_a_manager_that_is_stopped_from_the_users_thread_lets_go_of_what_is_starting(call: Any) -> None:
    with (
        fm.LocalModelCluster(document(), processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        manager = cluster.adapt(fm.Provisioning(mode="manual", **QUICK))
        close, closed_in = manager.backend.close, []

        async def closing() -> None:
            closed_in.append(asyncio.get_running_loop())
            await close()

        manager.backend.close = closing
        manager.backend._worker_spec = lambda replica: {"cls": Hangs, "options": {"resources": labels(replica)}}
        until(lambda: fm.status(client)["provisioning"] is not None)
        fm.scale(client, {"m": {"cpu": 2}})
        until(lambda: "m-cpu-1" in cluster.worker_spec)
        call(manager.stop)
        until(lambda: "m-cpu-1" not in cluster.worker_spec)
        assert "m-cpu-0" in cluster.worker_spec
        assert closed_in == [cluster.loop.asyncio_loop]


async def test_other_scalers_do_not_take_replicas(world: InProcessCluster) -> None:
    scheduler = world.scheduler
    closable = scheduler.workers_to_close(n=10, attribute="name")
    assert "m-cpu-0" not in closable
    assert "light-0" in closable


async def test_the_provisioner_survives_a_router_that_is_installed_anew(world: InProcessCluster) -> None:
    by_hand(world)
    await fm.scale(world.client, {"m": {"cpu": 2}})
    await reached(world, 2, 2, 2)
    await fm.uninstall(world.client)
    await fm.install(world.client, world.cluster.deployment)
    await world.until(lambda: world.router.machine is not None and len(world.router.machine.fleet) == 2)
    await reached(world, 2, 2, 2)
    assert (await fm.status(world.client))["provisioning"]["mode"] == "manual"


async def test_what_cannot_be_is_refused_with_the_next_step(world: InProcessCluster) -> None:
    with pytest.raises(DeploymentError, match=r"cluster\.adapt\(fm\.Provisioning\(\)\)"):
        await fm.scale(world.client, {"m": {"cpu": 2}})
    by_hand(world)
    await reached(world, 1, 1, 1)
    with pytest.raises(DeploymentError, match="9 replicas on 'cpu' in all, its 4 cards hold 4"):
        await fm.scale(world.client, {"m": {"cpu": 9}})
    with pytest.raises(DeploymentError, match="model 'n' is not deployed on 'cpu'"):
        await fm.scale(world.client, {"n": {"cpu": 1}})
    with pytest.raises(DeploymentError, match="its cards hold 4"):
        world.cluster.adapt(fm.Provisioning.model_validate({"default": {"min_replicas": 5}}))


@pytest.mark.parametrize("wrong", [2, {"m": 2}, ["m"]])
async def test_numbers_without_model_or_accelerator_are_refused(world: InProcessCluster, wrong: Any) -> None:
    with pytest.raises(DeploymentError, match=r"write \{'model': \{'accelerator': replicas\}\}"):
        await fm.scale(world.client, wrong)


async def test_a_number_of_workers_does_not_take_replicas(world: InProcessCluster) -> None:
    with pytest.raises(DeploymentError, match=r"call cluster\.adapt\(fm\.Provisioning\(\)\), and fm\.scale\(client"):
        world.cluster.scale(0)
    assert len(world.cluster.worker_spec) == 2


async def test_the_two_models_share_the_last_card_by_turns_when_asked_to() -> None:
    made = deployment("m", "n")
    made["accelerators"]["cpu"]["cards"] = 1
    made["models"]["n"]["on"]["cpu"]["replicas"] = 0
    async with InProcessCluster(made) as world:
        by_hand(world)
        await reached(world, 1, 1, 1)
        worker = world.cluster.workers["m-cpu-0"]
        close = worker.close

        async def slowly(*args: Any, **kwargs: Any) -> None:
            await close(*args, **kwargs)
            await asyncio.sleep(0.3)  # some looks, while its place is not free yet

        worker.close = slowly
        await fm.scale(world.client, {"m": {"cpu": 0}, "n": {"cpu": 1}})
        await world.until(lambda: list(world.engines) == ["n-cpu-0"])
        steps = (await fm.status(world.client))["provisioning"]["steps"]
        assert [step["step"] for step in steps] == ["swap", "stop", "start"]
