"""How engines start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dask_fmware.errors import EngineCrashedError, EngineError
from dask_fmware.model.engine import Engine
from dask_fmware.testing.asking import LONG, ask, collect, native_threads, settled_threads, until
from dask_fmware.testing.conformance.engine.serving import Serving

__all__ = ["Life"]


class Life:
    """An engine may be started, closed and interrupted at any time."""

    async def test_closing_ends_running_and_waiting_streams_with_abort(self, serving: Serving) -> None:
        async with serving(slots=1) as engine:
            consumers = [asyncio.create_task(collect(engine, ask(f"r{i}", LONG))) for i in range(3)]
            await until(lambda: engine.state().running == 1 and engine.state().waiting == 2)
            await engine.count_tokens(ask("flush"))
            await engine.close()
            assert [(await consumer)[-1].finish_reason for consumer in consumers] == ["abort"] * 3
            assert engine.state().running == engine.state().waiting == 0

    async def test_start_and_close_may_be_repeated(self, make: Callable[..., Engine]) -> None:
        engine = make()
        await engine.close()
        await asyncio.gather(engine.start(), engine.start())
        await engine.start()
        assert (await collect(engine, ask()))[-1].finish_reason == "length"
        await asyncio.gather(engine.close(), engine.close())
        await engine.close()

    async def test_before_start_and_after_close_it_refuses_to_serve(self, make: Callable[..., Engine]) -> None:
        engine = make()
        with pytest.raises(EngineError):
            engine.capabilities  # noqa: B018 - it raises
        for _ in range(2):
            with pytest.raises(EngineCrashedError, match="not serving"):
                await collect(engine, ask())
            with pytest.raises(EngineCrashedError, match="not serving"):
                await engine.count_tokens(ask())
            await engine.start()
            await engine.close()

    async def test_a_cancelled_start_can_be_closed(self, make: Callable[..., Engine]) -> None:
        engine = make()
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await engine.close()
        with pytest.raises(EngineCrashedError):
            await collect(engine, ask())

    async def test_a_cancelled_close_still_closes(self, make: Callable[..., Engine]) -> None:
        engine = make()
        await engine.start()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await engine.close()
        with pytest.raises(EngineCrashedError):
            await collect(engine, ask())

    async def test_no_thread_outlives_close(self, serving: Serving) -> None:
        async def serve_once() -> None:
            async with serving() as engine:
                await asyncio.gather(*(collect(engine, ask(f"r{i}")) for i in range(4)))

        await serve_once()  # what a library keeps for the whole process is here from now on
        before = settled_threads(at_most=0, patience_s=0.2)
        for _ in range(3):
            await serve_once()
        assert settled_threads(at_most=before) <= before, native_threads()
