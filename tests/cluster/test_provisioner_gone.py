"""What becomes of replicas when whoever starts and stops them has ended, or looks rarely; and of those on leave."""

from __future__ import annotations

import time
from typing import Any

import pytest
from distributed.deploy.adaptive import Adaptive

import dask_fmware as fm
from dask_fmware.errors import DeploymentError
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.services import provisioning
from dask_fmware_scheduler.services.leave import Leave
from dask_fmware_scheduler.services.provisioning import ProvisioningService
from tests.cluster.test_provisioning import QUICK, by_hand, document, reached


async def test_who_has_ended_is_told_to_nobody_as_at_work() -> None:
    async with InProcessCluster(document(2)) as world:
        ours, service = by_hand(world), world.router.service(ProvisioningService)
        await reached(world, 2, 2, 2)
        assert service._watch.stopping("m-cpu-0", time.time())
        ours.stop()
        await world.until(lambda: not service.is_asked)
        assert service.going() is None
        assert service._watch.going(time.time()) is None
        why = r"nothing on this cluster starts or stops replicas any more: nobody has asked what to do for \d+ s; call"
        with pytest.raises(DeploymentError, match=why):
            await fm.scale(world.client, {"m": {"cpu": 3}})


async def test_who_asks_no_more_is_gone_until_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "LEASE_S", 1.0)
    async with InProcessCluster(document()) as world:
        ours, service = by_hand(world), world.router.service(ProvisioningService)
        await reached(world, 1, 1, 1)
        told: list[bool] = []
        monkeypatch.setattr(service, "changed", lambda: told.append(service.is_asked))
        Adaptive.stop(ours, reason="its program has died")
        await world.until(lambda: not service.is_asked)
        assert service.going() is None
        with pytest.raises(DeploymentError, match="nobody has asked what to do for"):
            await fm.scale(world.client, {"m": {"cpu": 1}})
        await ours.look()
        assert told == [False, True]


async def test_while_another_takes_over_somebody_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async with InProcessCluster(document()) as world:
        old, service = by_hand(world), world.router.service(ProvisioningService)
        await reached(world, 1, 1, 1)
        told: list[bool] = []
        monkeypatch.setattr(service, "changed", lambda: told.append(service.is_asked))
        async with service._busy:  # a look of the old one goes on
            new = by_hand(world)
            await world.until(lambda: old._closing is not None and old._closing.done())
        await world.until(lambda: service._manager == new.manager)
        assert not told


async def test_a_drained_replica_stays_so_for_some_looks_however_far_apart_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leased: list[float] = []
    drain = Leave.drain

    def noted(self: Leave, workers: list[str], lease_s: float) -> None:
        leased.append(lease_s)
        drain(self, workers, lease_s)

    async with InProcessCluster(document(2)) as world:
        monkeypatch.setattr(Leave, "drain", noted)
        ours = by_hand(world, interval_s=40.0)
        await ours.ready()
        await fm.scale(world.client, {"m": {"cpu": 1}})
        await ours.look()
        assert set(leased) == {120.0}


async def test_a_replica_whose_card_is_measured_is_left_alone_and_goes_as_usual_afterwards() -> None:
    async with InProcessCluster(document()) as world:
        world.cluster.adapt(fm.Provisioning(**QUICK))
        service, leave = world.router.service(ProvisioningService), world.router.service(Leave)
        (state,) = world.router.machine.fleet
        leave.measure(state.replica.card, 60, "one")
        looks: list[Any] = []
        ask = world.scheduler.handlers["fmware_provision"]

        async def noted(**question: Any) -> Any:
            looks.append(answer := await ask(**question))
            return answer

        world.scheduler.handlers["fmware_provision"] = noted
        await world.until(lambda: len(looks) > 30)  # 1.5 s and more, `idle_s` is 0.5
        assert not service.status()["steps"]
        leave.measure(state.replica.card, 0, "one")
        await reached(world, 0, 0, 0)
        assert [step["step"] for step in service.status()["steps"]] == ["drain", "stop"]
