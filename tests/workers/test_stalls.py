"""How long an engine may be silent, and what is not held against it."""

from __future__ import annotations

import asyncio
import time

import pytest

from dask_fmware.errors import EngineStalledError
from dask_fmware_workers.stalls import bounded_silence


async def test_an_engine_that_is_silent_for_too_long_is_given_up() -> None:
    with pytest.raises(EngineStalledError, match=r"node 'a': no token for 0.08 s \(see router.stall_s\)"):
        async with bounded_silence(0.08, lambda: 0, "node 'a'"):
            await asyncio.Event().wait()


async def test_signs_of_life_begin_the_bound_anew() -> None:
    signs = 0
    async with bounded_silence(0.08, lambda: signs, "node 'a'"):
        for _ in range(10):
            await asyncio.sleep(0.02)
            signs += 1


async def test_a_process_that_was_stopped_does_not_blame_its_engine() -> None:
    for _ in range(3):
        async with bounded_silence(0.2, lambda: 0, "node 'a'"):
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251 (as a stopped process: nothing runs, timers are overdue)
            await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_without_a_bound_nothing_is_watched_and_errors_inside_stay_what_they_are() -> None:
    async with bounded_silence(0.0, lambda: 0, "node 'a'"):
        await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        async with bounded_silence(10.0, lambda: 0, "node 'a'"):
            raise TimeoutError("of the engine's own")
