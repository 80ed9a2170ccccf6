"""How long an engine may be silent, and what is not held against it."""

from __future__ import annotations

import asyncio
import time

import pytest

from dask_fmware.errors import EngineStalledError
from dask_fmware_workers.stalls import bounded_silence, told_when_overdue


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


async def test_an_attempt_that_is_overdue_is_told_again_and_again_until_it_has_a_token() -> None:
    told: list[float] = []
    now, three = asyncio.get_running_loop().time, asyncio.Event()

    def tell() -> None:
        told.append(now())
        if len(told) == 3:
            three.set()

    begin = now()
    async with told_when_overdue(0.02, lambda: not three.is_set(), tell):
        await three.wait()
        await asyncio.sleep(0.1)
    waits = [at - begin for at in told]
    assert len(waits) == 3, "it has a token by then"
    assert all(waited >= least for waited, least in zip(waits, (0.02, 0.03, 0.045), strict=True))


async def test_nothing_is_told_of_an_attempt_that_ends_or_has_no_bound() -> None:
    told: list[str] = []
    async with told_when_overdue(0.02, lambda: True, lambda: told.append("late")):
        pass
    async with told_when_overdue(0.0, lambda: True, lambda: told.append("unbounded")):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    assert told == []
