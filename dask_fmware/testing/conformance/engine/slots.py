"""Who runs and who waits in an engine, and what is aborted."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

import pytest

from dask_fmware.errors import SpecError
from dask_fmware.model.engine import Engine
from dask_fmware.testing.asking import LONG, WAIT_S, ask, collect, is_idle, until, usage_of
from dask_fmware.testing.conformance.engine.serving import Serving

__all__ = ["Slots"]


class Slots:
    """Slots are never exceeded, and free when a request has ended, however it did."""

    async def test_an_aborted_stream_ends_with_abort_and_frees_its_slot(self, serving: Serving) -> None:
        async with serving() as engine:
            deltas = []
            async with asyncio.timeout(WAIT_S):
                async for delta in engine.generate(ask("long", LONG)):
                    deltas.append(delta)
                    if len(deltas) == 3:
                        await engine.abort("long")
            await until(lambda: engine.state().running == 0)
            assert deltas[-1].finish_reason == "abort"
            assert usage_of(deltas).output_tokens == sum(delta.tokens for delta in deltas) < LONG
            assert (await collect(engine, ask("next")))[-1].finish_reason == "length"

    async def test_closing_the_iterator_aborts(self, serving: Serving) -> None:
        async with serving() as engine:
            async with aclosing(engine.generate(ask(max_tokens=LONG))) as stream:  # type: ignore[type-var]
                await anext(stream)
                assert engine.state().running == 1
            await until(lambda: is_idle(engine))

    async def test_cancelling_the_consumer_aborts(self, serving: Serving) -> None:
        async with serving() as engine:
            consumer = asyncio.create_task(collect(engine, ask(max_tokens=LONG)))
            await until(lambda: engine.state().running == 1)
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            await until(lambda: is_idle(engine))

    async def test_requests_beyond_the_slots_wait_and_are_served(self, serving: Serving) -> None:
        async with serving(slots=2) as engine:
            blockers = [asyncio.create_task(collect(engine, ask(f"b{i}", LONG))) for i in range(2)]
            await until(lambda: engine.state().running == 2)
            consumers = [asyncio.create_task(collect(engine, ask(f"r{i}", 20))) for i in range(3)]
            await until(lambda: engine.state().waiting == 3)
            assert not any(consumer.done() for consumer in consumers)
            for i in range(2):
                await engine.abort(f"b{i}")
            running = []
            while not all(consumer.done() for consumer in consumers):
                running.append(engine.state().running)
                await asyncio.sleep(0.001)
            await asyncio.gather(*blockers)
        assert max(running) <= 2
        assert [usage_of(consumer.result()).output_tokens for consumer in consumers] == [20] * 3

    async def test_a_waiting_request_can_be_aborted(self, serving: Serving) -> None:
        async with serving(slots=1) as engine:
            first = asyncio.create_task(collect(engine, ask("first", LONG)))
            await until(lambda: engine.state().running == 1)
            second = asyncio.create_task(collect(engine, ask("second", LONG)))
            await until(lambda: engine.state().waiting == 1)
            await engine.abort("second")
            (only,) = await second
            assert only.finish_reason == "abort"
            assert usage_of([only]).output_tokens == 0
            assert not first.done()
            await engine.abort("first")
            assert (await first)[-1].finish_reason == "abort"

    async def test_lower_priority_values_are_served_first(self, serving: Serving) -> None:
        async with serving(slots=1) as engine:
            if not engine.capabilities.priority:
                pytest.skip("the engine takes no priorities")
            blocker = asyncio.create_task(collect(engine, ask("blocker", LONG)))
            await until(lambda: engine.state().running == 1)
            order: list[str] = []

            async def serve(name: str, priority: float) -> None:
                await collect(engine, ask(name, 2, priority=priority))
                order.append(name)

            waiting = []
            asked = [("last", 5.0), ("first", -1.0), ("second", -1.0), ("third", 0.0)]
            for count, (name, priority) in enumerate(asked):
                waiting.append(asyncio.create_task(serve(name, priority)))
                await until(partial(_waits, engine, count + 1))
                await engine.count_tokens(ask("flush"))  # its prompt is counted too, so it is in the queue
            await engine.abort("blocker")
            await asyncio.gather(blocker, *waiting)
        assert order == ["first", "second", "third", "last"]

    async def test_two_requests_of_one_id_cannot_run_together(self, serving: Serving) -> None:
        async with serving() as engine:
            first = asyncio.create_task(collect(engine, ask("twin", LONG)))
            await until(lambda: engine.state().running == 1)
            with pytest.raises(SpecError, match="twin"):
                await collect(engine, ask("twin", 4))
            assert not first.done()
            await engine.abort("twin")
            await first

    async def test_unknown_and_finished_ids_are_ignored_by_abort(self, serving: Serving) -> None:
        async with serving() as engine:
            await engine.abort("nobody")
            await collect(engine, ask("done"))
            await engine.abort("done")
            assert (await collect(engine, ask("done")))[-1].finish_reason == "length"


def _waits(engine: Engine, wanted: int) -> bool:
    return engine.state().waiting == wanted
