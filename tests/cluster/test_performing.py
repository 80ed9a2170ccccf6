"""How long the machine's waits are kept by the scheduler's loop."""

from __future__ import annotations

import asyncio

from distributed.metrics import time

from dask_fmware.runtime import Action, Event, Tick
from dask_fmware_scheduler.guard import Guard
from dask_fmware_scheduler.performing import Performer


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
    performer = Performer(machine, None, Guard(), lambda _: None)  # type: ignore[arg-type]
    for later_s in range(1, 101):
        machine.wake_at = time() + 3600.0 - later_s
        performer.tell(Tick())
    assert [handle.cancelled() for handle in handles] == [True] * 99 + [False]
    machine.wake_at = time() + 3600.0
    performer.tell(Tick())
    performer.stop()
    assert all(handle.cancelled() for handle in handles)
