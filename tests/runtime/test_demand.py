from __future__ import annotations

from dask_fmware.runtime import ReplicaGone, ReplicaReady
from dask_fmware.runtime.demand import Demand
from tests.runtime.builders import Driver, replica


def test_of_a_lost_replica_nothing_is_kept() -> None:
    driver = Driver()
    demand = Demand(driver.machine)
    driver.machine.observers.append(demand)
    driver.tell(ReplicaReady(replica("a")))
    assert demand.idle_since("tcp://a", running=1, since=0.0, now=5.0) is None
    assert demand.idle_since("tcp://a", running=0, since=0.0, now=9.0) == 5.0
    driver.tell(ReplicaGone("tcp://a"), at=10.0)
    assert demand.idle_since("tcp://a", running=0, since=2.0, now=12.0) == 2.0
