"""Batches form while the one before is under way; each item gets its own result or error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from dask_fmware.client.batches import Batches, Pace


class Work:
    """Doubles numbers when told to go on; odd ones fail if asked to, thirteen fails all."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await self.go_on.wait()
        if 13 in items:
            raise ValueError("thirteen")
        return [KeyError(item) if item < 0 else 2 * item for item in items]


async def started(*items: asyncio.Future[int]) -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_at_one_moment_is_one_batch_and_what_comes_meanwhile_the_next() -> None:
    work = Work()
    batches = Batches[int, int](work)
    tasks = [asyncio.ensure_future(batches.made(n)) for n in (1, 2)]
    await started()
    tasks += [asyncio.ensure_future(batches.made(n)) for n in (3, 4, 5)]
    await started()
    assert work.batches == [[1, 2]]
    work.go_on.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert work.batches == [[1, 2], [3, 4, 5]]


async def test_so_many_batches_are_under_way_side_by_side() -> None:
    work = Work()
    batches = Batches[int, int](work, at_once=2)
    tasks = []
    for n in (1, 2, 3):
        tasks.append(asyncio.ensure_future(batches.made(n)))
        await started()
    assert work.batches == [[1], [2]]
    work.go_on.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_an_item_that_fails_does_not_fail_the_others_but_an_error_of_the_work_does() -> None:
    work = Work()
    work.go_on.set()
    batches = Batches[int, int](work)
    made = await asyncio.gather(*map(batches.made, (-1, 4)), return_exceptions=True)
    assert isinstance(made[0], KeyError)
    assert made[1] == 8
    made = await asyncio.gather(*map(batches.made, (13, 4)), return_exceptions=True)
    assert [str(one) for one in made] == ["thirteen", "thirteen"]
    assert await batches.made(5) == 10  # it goes on


async def test_who_gave_up_before_its_batch_began_is_left_out() -> None:
    work = Work()
    batches = Batches[int, int](work)
    first, gone, last = (asyncio.ensure_future(batches.made(n)) for n in (1, 2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    await started()
    work.go_on.set()
    assert await asyncio.gather(first, last) == [2, 6]
    assert work.batches == [[1, 3]]
    with pytest.raises(asyncio.CancelledError):
        await gone


@pytest.mark.parametrize(
    ("items", "every_s", "pause_s"),
    [
        (1, 1.0, 0.0),
        (1, 0.011, 0.0),  # one caller after the other: there is nothing to put together
        (20, 0.25, 0.0),
        (1, 1 / 150, 0.01),
        (10, 10 / 150, 0.01),
        (1, 1 / 300, 0.02),
        (50, 0.05, 0.02),
    ],
)
def test_the_faster_items_come_the_longer_a_batch_waits(items: int, every_s: float, pause_s: float) -> None:
    pace, now = Pace(0.02), 0.0
    assert pace.began(1, now) == now  # nothing is known yet
    for _ in range(50):
        now += every_s
        next_at = pace.began(items, now)
    assert next_at - now == pytest.approx(pause_s, abs=1e-6)


@pytest.mark.parametrize(("under_way", "pause_s"), [(0, 0.0), (1, 0.001), (3, 0.003), (31, 0.02)])
def test_a_pause_is_short_beside_the_time_that_an_item_takes(under_way: int, pause_s: float) -> None:
    """So many items at 500 a second take two milliseconds each, times their number."""
    pace, now = Pace(0.02, lambda: under_way), 0.0
    for _ in range(50):
        now += 0.002
        next_at = pace.began(1, now)
    assert next_at - now == pytest.approx(pause_s, abs=1e-6)


def test_a_burst_after_a_while_waits_for_nothing() -> None:
    pace = Pace(0.02)
    pace.began(1, 0.0)
    assert pace.began(100, 100.0) == 100.0


async def test_batches_keep_their_distance() -> None:
    work = Work()
    work.go_on.set()
    pace = Pace(0.05)
    for n in range(100):
        pace.began(10, now=0.01 * n)
    batches = Batches[int, int](work, pace=pace)
    loop = asyncio.get_running_loop()
    assert await batches.made(1) == 2
    began = loop.time()
    assert await asyncio.gather(*map(batches.made, (2, 3))) == [4, 6]
    assert loop.time() - began > 0.02
    assert work.batches == [[1], [2, 3]]


async def test_what_a_cancelled_caller_does_not_take_is_discarded_once() -> None:
    go_on, discarded = asyncio.Event(), list[int]()

    async def work(items: Sequence[int]) -> list[int | Exception]:
        await go_on.wait()
        for caller in (late, failed):
            asyncio.get_running_loop().call_soon(caller.cancel)  # made, but not yet taken
        return [KeyError(item) if item < 0 else 2 * item for item in items]

    batches = Batches[int, int](work, discard=discarded.append)
    early, late, kept, failed = (asyncio.ensure_future(batches.made(n)) for n in (1, 2, 3, -4))
    await started()
    early.cancel()  # while it is made
    await started()
    go_on.set()
    ends = await asyncio.gather(early, late, kept, failed, return_exceptions=True)
    assert [end if isinstance(end, int) else type(end) for end in ends] == [
        asyncio.CancelledError,
        asyncio.CancelledError,
        6,
        asyncio.CancelledError,
    ]
    assert discarded == [2, 4]


async def test_who_waits_for_work_that_is_cancelled_does_not_wait_for_ever() -> None:
    async def work(items: Sequence[int]) -> list[int | Exception]:
        if 13 in items:
            raise asyncio.CancelledError
        return list(items)

    batches = Batches[int, int](work)
    made = await asyncio.wait_for(asyncio.gather(*map(batches.made, (13, 4)), return_exceptions=True), 5)
    assert [type(one) for one in made] == [asyncio.CancelledError] * 2
    assert await batches.made(5) == 5


async def test_a_batch_is_made_in_the_context_of_nobody() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="nobody")

    async def work(items: Sequence[str]) -> list[str | Exception]:
        return [f"{item}: {caller.get()}" for item in items]

    batches = Batches[str, str](work)

    async def called(name: str) -> str:
        caller.set(name)
        return await batches.made(name)

    assert await asyncio.gather(called("Ada"), called("Bob")) == ["Ada: nobody", "Bob: nobody"]
