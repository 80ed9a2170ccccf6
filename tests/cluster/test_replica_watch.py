"""What is awaited of replicas that are lost, and of pools of workers, asked for by number, with names of their own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from dask_fmware.provisioning import ReplicaNow
from dask_fmware.runtime import ReplicaGone, ReplicaReady
from dask_fmware.runtime.demand import Demand
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware_scheduler.services.replica_watch import ReplicaWatch
from tests.runtime.builders import Driver, replica

CPU = "small", "cpu"


class Pool:
    """A watch over one pool, whose workers come when a test says so."""

    def __init__(self) -> None:
        self.driver = Driver()
        router = SimpleNamespace(machine=self.driver.machine, service=lambda _: SimpleNamespace(failed={}))
        self.watch = ReplicaWatch(cast(Any, router), Provisioning(start_timeout_s=60))
        self.demand = Demand(self.driver.machine)

    def look(self, count: int, now: float) -> tuple[ReplicaNow, ...]:
        return self.watch.look((), [("small", "cpu", count)], self.demand, now)

    def comes(self, name: str) -> None:
        self.driver.tell(ReplicaReady(replica(name)))


def test_pods_that_come_one_after_the_other_are_each_waited_for_as_long() -> None:
    pool = Pool()
    for i in range(10):  # there is always one on its way
        now = 50.0 * i
        if i:
            pool.comes(f"pod-{i}")
        assert [r.state for r in pool.look(i + 1, now)] == ["ready"] * i + ["starting"]
    late = pool.look(10, 50.0 * 9 + 61)
    assert [r.state for r in late] == ["ready"] * 9 + ["failed"]
    assert late[-1].error == "it did not come within 60 s"


def test_a_pool_that_shrinks_awaits_one_less() -> None:
    pool = Pool()
    first, second = pool.look(2, 0.0)
    assert pool.watch.stopping(first.name, 1.0)
    assert pool.watch.sizes({}) == {CPU: 1}
    assert [(r.name, r.since) for r in pool.look(1, 3.0)] == [(second.name, 0.0)]


def test_the_size_of_a_pool_is_what_stays_and_what_is_started() -> None:
    pool = Pool()
    assert pool.watch.sizes({CPU: 2}) == {CPU: 2}  # the first of their kind
    for name in ("pod-1", "pod-2"):
        pool.comes(name)
    assert [r.state for r in pool.look(2, 0.0)] == ["ready", "ready"]
    assert pool.watch.stopping("pod-1", 1.0)
    assert pool.watch.sizes({CPU: 1}) == {CPU: 2}
    assert [(r.name, r.state) for r in pool.look(2, 2.0)] == [
        ("pod-1", "stopping"),
        ("pod-2", "ready"),
        ("small-cpu-pending-1", "starting"),  # it does not wait for the one that goes
    ]


def test_pods_that_come_though_a_pool_has_shrunk_are_not_counted_when_they_go() -> None:
    """They were asked for, the pool was told to shrink before they came, and one was asked for again."""
    pool = Pool()
    for replica_ in pool.look(3, 0.0):
        assert pool.watch.stopping(replica_.name, 1.0)
    assert pool.watch.sizes({CPU: 1}) == {CPU: 1}
    for name in ("pod-1", "pod-2", "pod-3"):
        pool.comes(name)
    assert [r.name for r in pool.look(1, 2.0)] == ["pod-1", "pod-2", "pod-3"]
    for name in ("pod-1", "pod-2"):
        assert pool.watch.stopping(name, 3.0)
    assert pool.watch.sizes({}) == {CPU: 1}


def test_a_pool_that_did_not_shrink_is_told_another_size_and_then_the_same_again() -> None:
    pool = Pool()
    pool.comes("pod-1")
    pool.look(1, 0.0)
    assert pool.watch.stopping("pod-1", 1.0)
    assert pool.watch.sizes({}) == {CPU: 0}
    pool.look(0, 89.0)
    assert pool.watch.sizes({}) == {CPU: 0}
    pool.look(0, 92.0)
    assert not pool.watch.stopping("pod-1", 92.0)
    assert pool.watch.sizes({}) == {CPU: 1}
    pool.look(1, 93.0)
    assert pool.watch.stopping("pod-1", 93.0)
    assert pool.watch.sizes({}) == {CPU: 0}


def test_a_replica_that_is_lost_is_waited_for_as_long_as_it_took_to_load() -> None:
    pool = Pool()
    asked = [{"name": "one", "model": "small", "accelerator": "cpu"}]

    def look(now: float) -> ReplicaNow:
        (found,) = pool.watch.look(asked, (), pool.demand, now)
        return found

    pool.driver.tell(ReplicaReady(replace(replica("one"), load_s=300.0)))
    assert look(0.0).state == "ready"
    pool.driver.tell(ReplicaGone("tcp://one"))
    assert look(1.0).state == "starting"
    assert look(1.0 + 300 + 29).state == "starting"
    late = look(1.0 + 300 + 31)
    assert (late.state, late.error) == ("failed", "it did not come within 330 s")


def test_a_replica_that_is_shut_by_a_rate_limit_is_not_ready_and_has_not_come_anew_when_it_opens() -> None:
    pool = Pool()
    pool.comes("pod-1")
    pool.driver.start("a")
    assert [(r.state, r.since) for r in pool.look(1, 1.0)] == [("ready", 1.0)]
    pool.driver.end("a", "retry", is_sound=True, shut_s=30.0)
    assert [(r.state, r.since) for r in pool.look(1, 2.0)] == [("shut", 1.0)]
    assert pool.watch.counts() == {CPU: (1, 0)}
    assert [(r.state, r.since) for r in pool.look(1, 31.0)] == [("ready", 1.0)]
    assert pool.watch.counts() == {CPU: (1, 1)}
