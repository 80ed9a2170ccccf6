"""A call that comes ahead of its slot waits for it at its worker, and is given back if it waits in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from distributed import Reschedule

from dask_fmware.errors import EngineCrashedError
from dask_fmware.model.call import ModelCall, Template
from dask_fmware.model.engine import Delta, Request, Usage
from dask_fmware.model.messages import Grant
from dask_fmware_workers.engine_slots import EngineSlots, NeverBeganError
from dask_fmware_workers.runner import CallRunner

CALL = ModelCall("rag", "answer", "small", (Template("why?"),), 16)


class OneAtATime:
    """An engine that ends a request when it is told to, and fails if it has two."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.dies = False

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        assert not self.running, "two requests on one slot"
        self.running.append(request.request_id)
        self.asked.append(request.request_id)
        try:
            await self.go.wait()
            self.go.clear()
            if self.dies:
                raise EngineCrashedError("it broke")
            yield Delta("yes", 1, "stop", Usage(3, 1))
        finally:
            self.running.clear()


class Worker:
    """A runner on an engine of one slot, and what it told the scheduler."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.engine = OneAtATime()
        self.runner = CallRunner(self.sent.append, lambda engine, error: self.runner.engine_died())
        self.runner.slots.count = 1

    def start(self, call_id: str, wait_s: float = 0.0) -> asyncio.Task[Any]:
        self.runner.grant(Grant(call_id, 1, wait_s=wait_s))
        return asyncio.ensure_future(self.runner.run(self.engine, CALL, call_id, {}))  # type: ignore[arg-type]

    def outcomes(self) -> dict[str, str]:
        return {message["call_id"]: message["outcome"] for message in self.sent}


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_call_that_is_ahead_begins_when_the_one_before_it_has_ended() -> None:
    worker = Worker()
    first, second = worker.start("a"), worker.start("b", wait_s=60.0)
    await settle()
    assert worker.engine.asked == ["a#1"]
    worker.engine.go.set()
    await first
    await settle()
    assert worker.engine.asked == ["a#1", "b#1"]
    worker.engine.go.set()
    assert (await second).text == "yes"
    assert worker.outcomes() == {"a": "finished", "b": "finished"}
    told = worker.sent[-1]
    assert told["waited_s"] > 0
    assert worker.sent[0].get("waited_s", 0.0) == 0.0


async def test_a_call_that_waits_in_vain_is_given_back_and_has_not_begun() -> None:
    worker = Worker()
    first, second = worker.start("a"), worker.start("b", wait_s=0.01)
    with pytest.raises(Reschedule, match="no slot was free"):
        await second
    assert worker.outcomes() == {"b": "undelivered"}
    worker.engine.go.set()
    await first
    third = worker.start("c")
    await settle()
    assert worker.engine.asked == ["a#1", "c#1"], "the slot that was waited for in vain is not lost"
    worker.engine.go.set()
    await third


async def test_a_crash_gives_back_what_was_ahead() -> None:
    worker = Worker()
    first, second = worker.start("a"), worker.start("b", wait_s=60.0)
    await settle()
    worker.engine.dies = True
    worker.engine.go.set()
    with pytest.raises(Reschedule):
        await first
    with pytest.raises(Reschedule, match="its engine has died"):
        await second
    assert worker.outcomes() == {"a": "retry", "b": "undelivered"}
    assert worker.engine.asked == ["a#1"]


async def test_a_call_that_is_withdrawn_while_it_waits_leaves_no_trace() -> None:
    worker = Worker()
    first, second, third = worker.start("a"), worker.start("b", wait_s=60.0), worker.start("c", wait_s=60.0)
    await settle()
    worker.runner.withdraw("b")
    with pytest.raises(Reschedule):
        await second
    worker.engine.go.set()
    await first
    await settle()
    assert worker.engine.asked == ["a#1", "c#1"]
    worker.engine.go.set()
    await third
    assert worker.outcomes() == {"b": "aborted", "a": "finished", "c": "finished"}
    assert not worker.runner.running


async def test_slots_go_to_whoever_waits_longest() -> None:
    slots, order = EngineSlots(2), []

    async def one(name: str) -> None:
        await slots.take(0.0)
        order.append(name)

    await asyncio.gather(one("a"), one("b"))
    waiting = [asyncio.ensure_future(one(name)) for name in "cde"]
    await settle()
    assert order == ["a", "b"]
    slots.give()
    slots.give()
    await settle()
    assert order == ["a", "b", "c", "d"]
    slots.close()
    with pytest.raises(NeverBeganError):
        await waiting[2]


async def test_a_slot_that_comes_to_one_who_was_just_cancelled_goes_on_to_the_next() -> None:
    slots = EngineSlots(1)
    await slots.take(0.0)
    first, second = asyncio.ensure_future(slots.take(0.0)), asyncio.ensure_future(slots.take(0.0))
    await settle()
    slots.give()
    first.cancel()
    await settle()
    assert second.done()
