"""How long the machine's waits are kept by the scheduler's loop, and what observers and policies that raise do."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from distributed.metrics import time

import dask_fmware as fm
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.runtime import Action, CallRunnable, Event, Hold, Tick
from dask_fmware_scheduler.clock import Clock
from dask_fmware_scheduler.guard import Guard
from dask_fmware_scheduler.performing import Performer
from tests.cluster.flows import one


class Waiting:
    """A machine that waits for another time after each event."""

    def __init__(self) -> None:
        self.wake_at: float | None = None

    def handle(self, event: Event, now: float) -> list[Action]:
        return []


async def test_only_the_latest_wait_keeps_a_timer(monkeypatch) -> None:
    loop, handles = asyncio.get_running_loop(), []
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda *args: handles.append(call_later(*args)) or handles[-1])
    machine = Waiting()
    performer = Performer(machine, None, Guard(), lambda _: None, Clock())  # type: ignore[arg-type]
    for later_s in range(1, 101):
        machine.wake_at = time() + 3600.0 - later_s
        performer.tell(Tick())
    assert [handle.cancelled() for handle in handles] == [True] * 99 + [False]
    machine.wake_at = time() + 3600.0
    performer.tell(Tick())
    performer.stop()
    assert all(handle.cancelled() for handle in handles)


def test_what_an_action_brings_about_is_told_when_all_actions_are_performed() -> None:
    """Else an assignment that answers the first of them would overtake the second."""
    happened: list[object] = []

    class TwoActions(Waiting):
        def handle(self, event: Event, now: float) -> list[Action]:
            happened.append(event)
            return [Hold("first", "of two"), Hold("second", "of two")] if isinstance(event, CallRunnable) else []

    class Answering(Performer):
        def _perform(self, action: Action) -> None:
            happened.append(action.call_id)
            if action.call_id == "first":
                self.tell(Tick())

    performer = Answering(TwoActions(), None, Guard(), lambda _: None, Clock())  # type: ignore[arg-type]
    performer.tell(CallRunnable("first"))
    assert happened == [CallRunnable("first"), "first", "second", Tick()]


class Broken:
    def observe(self, *told: Any) -> None:
        raise LookupError("of an observer")


async def test_calls_run_beside_an_observer_that_raises_and_the_status_says_so(
    serving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("small") as cluster:
        cluster.router.machine.observers.append(Broken())
        future = cluster.client.compute(one("x"))
        await asyncio.wait_for(future, 10)
        assert (await fm.status(cluster.client))["failures"]["observer Broken"] > 3
        future.release()
        await cluster.until(lambda: not cluster.router.machine.runs.calls)
        logged = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert logged == ["Replica router: observer Broken failed; more of its errors are only counted"]
        cluster.router.machine.observers.remove(next(o for o in cluster.router.machine.observers if type(o) is Broken))
        del cluster.router.failures["observer Broken"]


def fails(*asked: Any) -> Any:
    raise LookupError("of a policy")


@pytest.mark.parametrize("method", ["choose", "order"])
async def test_a_run_whose_policy_raises_ends_with_that_and_the_log_says_where(
    serving: Any, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async with serving("small") as cluster:
        policy = cluster.router.machine.policy.asked
        setattr(policy, method, fails)
        futures = cluster.client.compute([one("x"), one("y")])
        for future in futures:
            with pytest.raises(RuntimeFaultError, match=f"policy 'slack': {method} raised LookupError: of a policy"):
                await asyncio.wait_for(future, 10)
            future.release()
        delattr(policy, method)
        await asyncio.wait_for(cluster.client.compute(one("z")), 10)
        assert cluster.router.failures.pop("policy") == 2
        logged = [record for record in caplog.records if "policy" in record.message and record.exc_info]
        assert [record.exc_info[0] for record in logged] == [LookupError]
