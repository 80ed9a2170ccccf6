from __future__ import annotations

from dask_fmware.provisioning import ModelLoad
from dask_fmware.provisioning.pressure import SETTLED_S, UP, Pressure
from dask_fmware.provisioning.steps import Stock
from tests.provisioning.builders import ready


def stock(serving: int, loading: int = 0) -> Stock:
    replicas = [ready(f"m-{i}") for i in range(serving)]
    return Stock.of(replicas + [ready(f"m-{serving + i}", state="starting") for i in range(loading)])


LATE, IN_TIME = {"m": ModelLoad(ended=100, missed=10)}, {"m": ModelLoad(ended=100)}


def settled(miss: float = 0.05) -> Pressure:
    pressure = Pressure(miss)
    for now in range(0, 100, 10):
        pressure.update(IN_TIME, stock(2), float(now))
    return pressure


def test_late_runs_of_one_minute_raise_it_once() -> None:
    pressure = settled()
    for now in range(100, 160, 5):
        pressure.update(LATE, stock(2), float(now))
    assert pressure.of("m") == UP
    pressure.update(LATE, stock(2), 100 + SETTLED_S + 10)
    assert pressure.of("m") == UP**2


def test_many_late_runs_raise_it_by_more() -> None:
    pressure = settled(miss=0.01)
    pressure.update(LATE, stock(2), 100.0)
    assert pressure.of("m") == UP**2


def test_runs_that_were_late_before_a_replica_came_do_not_count() -> None:
    pressure = settled()
    pressure.update(LATE, stock(2, loading=1), 100.0)
    for now in range(105, 160, 5):
        pressure.update(LATE, stock(3), float(now))
    assert pressure.of("m") == 1.0


def test_a_replica_that_came_between_two_looks_is_noticed() -> None:
    pressure = settled()
    for now in range(100, 160, 5):
        pressure.update(LATE, stock(3), float(now))
    assert pressure.of("m") == 1.0


def test_it_falls_slowly_while_runs_are_in_time() -> None:
    pressure = settled()
    pressure.update(LATE, stock(2), 100.0)
    for now in range(200, 400, 10):
        pressure.update(IN_TIME, stock(2), float(now))
    assert 1.0 < pressure.of("m") < UP
