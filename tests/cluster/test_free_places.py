"""Which place a replica gets: not that of a broken card, nor of one that somebody else uses."""

from __future__ import annotations

from typing import Any

import pytest
from distributed import Worker

import dask_fmware as fm
from dask_fmware.cluster.places import free_place
from dask_fmware.cluster.provision import _check_hosts
from dask_fmware.errors import DeploymentError
from dask_fmware.spec.deployment import Deployment
from dask_fmware.testing import InProcessCluster
from tests.cluster.test_provisioning import by_hand, document, reached


def made(per_card: int = 1, price: float | None = None) -> Deployment:
    there = document(0, cards=2)
    there["accelerators"]["cpu"] |= {"replicas_per_card": per_card, "price_per_hour": price}
    return Deployment.model_validate(there)


def place(deployment: Deployment, *taken: str, **more: Any) -> str | None:
    found = free_place(deployment, "m", "cpu", taken, taken, **more)
    return found and found.card


def test_a_card_that_is_paid_for_is_filled_first_and_one_without_a_price_is_not() -> None:
    assert place(made(2, 1.0), "m-cpu-0") == "cpu-0"
    assert place(made(2, 1.0), "m-cpu-1") == "cpu-1"
    assert place(made(2), "m-cpu-0") == "cpu-1"


def test_a_card_on_which_starts_failed_comes_last() -> None:
    assert place(made(), failures={"cpu-0": 1}) == "cpu-1"
    assert place(made(), "m-cpu-1", failures={"cpu-0": 1}) == "cpu-0"


def test_a_card_that_somebody_else_uses_is_taken() -> None:
    assert place(made(), others=["cpu-0"]) == "cpu-1"
    assert place(made(), "m-cpu-1", others=["cpu-0"]) is None
    assert place(made(2), "m-cpu-1", "m-cpu-3", others=["cpu-0"]) == "cpu-0"


def test_hosts_that_are_fewer_than_cards_are_refused_at_once() -> None:
    with pytest.raises(DeploymentError, match=r"hosts\['cpu'\] names 1 of 2 cards; name one for each card"):
        _check_hosts({"cpu": ["one"]}, made())
    with pytest.raises(DeploymentError, match=r"hosts\['gpu'\]: no such accelerator .* \(known: cpu\)"):
        _check_hosts({"gpu": ["one"]}, made())


async def test_one_broken_card_does_not_block_the_others_of_its_kind() -> None:
    async with InProcessCluster(document(0)) as world:
        by_hand(world)
        await reached(world, 0, 0, 0)
        make = world.cluster.replica_worker

        def broken(replica: Any) -> Any:
            if replica.card == "cpu-0":
                raise OSError("no such host")
            return make(replica)

        world.cluster._adaptive.backend._worker_spec = broken
        await fm.scale(world.client, {"m": {"cpu": 1}})
        await reached(world, 1, 1, 1)
        assert sorted(world.engines) == ["m-cpu-1"]


async def test_a_replica_does_not_come_to_the_card_of_one_that_was_started_by_hand() -> None:
    async with InProcessCluster(document(0)) as world:
        by_hand(world)
        await reached(world, 0, 0, 0)
        labels = {"fm-model:m": 1, "fm-accelerator:cpu": 1, "fm-card:cpu-0": 1}
        address = world.client.scheduler.address
        async with Worker(address, name="mine", nthreads=8, memory_limit=0, resources=labels):
            await world.until(lambda: len(world.router.machine.fleet) == 1)
            await fm.scale(world.client, {"m": {"cpu": 2}})
            await world.until(lambda: len(world.router.machine.fleet) == 2)
            cards = [state.replica.card for state in world.router.machine.fleet]
            assert sorted(cards) == ["cpu-0", "cpu-1"]
