"""Requests that hold back because a server said so, on a clock that jumps."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from dask_fmware.errors import CapacityError
from dask_fmware_workers.engines.rate_limit import RateLimit
from tests.engines import jumping

ANSWER_S = 0.02  # of the server


class Server:
    """One that is over its limit for some seconds, and tells to come back after others."""

    def __init__(self, refuses_s: float, wait_s: float = 0.0, limit: RateLimit | None = None) -> None:
        self.limit = limit or RateLimit(120.0, Random(0))
        self.refuses_for(refuses_s)
        self.wait_s = wait_s
        self.asked: list[float] = []

    def refuses_for(self, seconds: float) -> None:
        self.until = asyncio.get_running_loop().time() + seconds

    async def ask(self, name: int = 0) -> None:
        """Send one request until it is taken."""
        loop, turn = asyncio.get_running_loop(), self.limit.turn(f"request {name}", lambda: None)
        while True:
            await turn.comes()
            self.asked.append(loop.time())
            await asyncio.sleep(ANSWER_S)
            if loop.time() >= self.until:
                turn.taken()
                return
            turn.refused(self.wait_s)


def test_a_server_that_says_come_at_once_is_asked_ever_less_often_by_one_at_a_time() -> None:
    async def scenario() -> tuple[int, float]:
        server = Server(refuses_s=60.0)
        await asyncio.gather(*map(server.ask, range(16)))
        return len(server.asked), server.asked[-1] - server.until

    asked, late_s = jumping.run(scenario())
    assert asked < 16 + 10 + 16, "those that came at once, one after each pause, and all of them once it takes some"
    assert late_s < 40.0


def test_who_waits_goes_when_the_first_one_was_taken() -> None:
    async def scenario() -> list[float]:
        server = Server(refuses_s=1.0, wait_s=2.0)
        await asyncio.gather(*map(server.ask, range(4)))
        return [at - server.asked[0] for at in server.asked]

    came = jumping.run(scenario())
    assert came[:4] == [0.0] * 4
    first, *others = came[4:]
    assert 2.0 <= first <= 2.5
    assert others == pytest.approx([first + ANSWER_S] * 3)


def test_a_request_that_was_taken_ends_what_had_grown() -> None:
    async def scenario() -> list[float]:
        server = Server(refuses_s=10.0)
        await server.ask()
        server.refuses_for(0.03)
        await server.ask()
        return [later - earlier for earlier, later in zip(server.asked, server.asked[1:], strict=False)]

    *_, longest, at_once, again = jumping.run(scenario())
    assert longest >= 8.0
    assert at_once == pytest.approx(ANSWER_S)
    assert 0.5 <= again <= 0.7


def test_who_would_wait_too_long_is_told_for_how_long_nobody_need_ask() -> None:
    async def scenario() -> float:
        server = Server(refuses_s=1e6)
        with pytest.raises(CapacityError, match="rate_limit_wait_s=120") as caught:
            await server.ask()
        return caught.value.shut_s

    assert 20.0 < jumping.run(scenario()) < 40.0


def test_who_waits_for_the_first_one_does_not_give_up() -> None:
    """However short the bound: it is of pauses, and whether this one is over is known in a moment."""

    async def scenario() -> list[float]:
        server = Server(refuses_s=1.0, wait_s=3.0, limit=RateLimit(0.01, Random(0)))
        with pytest.raises(CapacityError) as caught:
            await server.ask()
        await asyncio.sleep(caught.value.shut_s)
        await asyncio.gather(*map(server.ask, range(4)))
        return [at - server.asked[1] for at in server.asked[1:]]

    assert jumping.run(scenario()) == pytest.approx([0.0] + [ANSWER_S] * 3)


def test_a_first_one_that_is_not_answered_is_followed_after_a_while() -> None:
    async def scenario() -> float:
        limit, loop = RateLimit(120.0, Random(0)), asyncio.get_running_loop()
        first, second = (limit.turn(f"request {name}", lambda: None) for name in "ab")
        await first.comes()
        first.refused(0.0)
        await first.comes()
        since = loop.time()
        await second.comes()
        return loop.time() - since

    assert jumping.run(scenario()) == pytest.approx(2.0)


def test_a_server_may_refuse_for_days() -> None:
    async def scenario() -> float:
        limit = RateLimit(120.0, Random(0))
        for _ in range(3000):
            turn = limit.turn("request", lambda: None)
            await turn.comes()
            turn.refused(0.0)
            longest_s = limit.pause_s
            await asyncio.sleep(longest_s)
        return longest_s

    assert 30.0 <= jumping.run(scenario()) <= 36.0
