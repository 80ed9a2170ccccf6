"""A call that only a busy replica can have in time waits for that one, as long as it still can."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.runtime import Tick
from dask_fmware.spec.deployment import Latency
from tests.runtime.builders import Driver, assigned, node, plan, replica

SLOW = Latency(first_token_s=3.0, prompt_token_s=0.01, output_token_s=0.1)
DUE = 2.0
OWN_S = 0.1  # until its first token on an idle fast replica; how long its prompt is, nobody knows yet


@pytest.fixture
def driver() -> Driver:
    """The fast replica is full and expected to have room after 1.11 s; the slow one is idle, and too slow for `u`."""
    made = Driver("slack")
    made.ready(replica("fast", slots=2), replica("slow", slots=2, latency=SLOW))
    for job in ("j0", "j1"):
        made.submit(plan(job, [node(job, max_tokens=100)]))
        assert assigned(made.runnable(job)) == [(job, "tcp://fast", 1)]
    made.submit(plan("u", [node("u", answers=True)], objective=Objective(ttft_s=DUE)))
    assert assigned(made.runnable("u")) == []
    assert made.call("u").reason == "only a busy replica can still be in time"
    return made


def test_it_gets_the_slot_that_becomes_free_in_time(driver: Driver) -> None:
    driver.now = DUE - OWN_S - 0.1
    assert assigned(driver.end("j0")) == [("u", "tcp://fast", 1)]


def test_it_goes_to_the_idle_replica_once_the_busy_one_is_too_late_though_nothing_else_happens(driver: Driver) -> None:
    """The calls that run there may hang."""
    assert driver.machine.wake_at == pytest.approx(DUE - OWN_S)
    assert assigned(driver.tell(Tick(), at=driver.machine.wake_at)) == [("u", "tcp://slow", 1)]
    assert driver.machine.wake_at is None
