"""Streams that write promptly: what is said arrives once and in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed.batched import BatchedSend
from distributed.comm import CommClosedError, connect, listen
from tornado.ioloop import IOLoop

from dask_fmware.streams import PromptSend, send_promptly, send_with_next


class Stream:
    """A stream to a peer that keeps the batches which come."""

    def __init__(self, comm: Any, batches: asyncio.Queue[Any]) -> None:
        self.there: BatchedSend = BatchedSend(interval=0, loop=IOLoop.current())
        self.there.start(comm)
        self.batches = batches

    async def batch(self) -> list[Any]:
        """What the next batch says."""
        return [message["n"] for message in await asyncio.wait_for(self.batches.get(), 10)]

    def say(self, *numbers: int) -> None:
        for n in numbers:
            self.there.send({"op": "say", "n": n})


@asynccontextmanager
async def stream(address: str = "tcp://127.0.0.1:0") -> AsyncIterator[Stream]:
    batches: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(comm: Any) -> None:
        while True:
            try:
                batches.put_nowait(await comm.read())
            except CommClosedError:
                return

    listener = listen(address, hear)
    await listener.start()
    comm = await connect(listener.contact_address)
    made = Stream(comm, batches)
    try:
        yield made
    finally:
        made.there.abort()
        listener.stop()
        await asyncio.sleep(0)


async def prompt(there: BatchedSend, interval_s: float = 0.0) -> None:
    """Make a stream prompt that is under way."""
    send_promptly(there, interval_s)
    for _ in range(1000):
        if isinstance(there, PromptSend):
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the stock writer does not sleep")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc://"])
async def test_what_is_said_in_one_turn_is_one_batch_and_all_comes_in_order(address: str) -> None:
    async with stream(address) as made:
        made.say(1)
        assert await made.batch() == [1]  # by the stock writer
        await prompt(made.there)
        made.say(2, 3)
        assert await made.batch() == [2, 3]
        for n in range(100):
            made.say(n)
            await asyncio.sleep(0)
        heard = list[int]()
        while len(heard) < 100:
            heard += await made.batch()
        assert heard == list(range(100))


async def test_a_stream_may_be_made_prompt_before_it_is_connected() -> None:
    async with stream() as made:
        later = BatchedSend(interval=0, loop=IOLoop.current())
        send_promptly(later, 0.0)
        later.send({"op": "say", "n": 1})
        later.start(await connect(made.there.comm.peer_address))
        later.send({"op": "say", "n": 2})
        assert await made.batch() == [1, 2]
        later.send({"op": "say", "n": 3})
        await asyncio.wait_for(later.close(), 10)
        assert await made.batch() == [3]


async def test_a_stream_that_is_made_prompt_under_load_loses_no_message_and_swaps_none() -> None:
    async with stream() as made:
        for n in range(300):
            made.say(n)
            if n == 100:
                send_promptly(made.there, 0.0)
            send_with_next(made.there, {"op": "say", "n": n}, 0.0)
            await asyncio.sleep(0.0005 * (n % 3))
        heard = list[int]()
        while len(heard) < 600:
            heard += await made.batch()
        assert heard == [n for n in range(300) for _ in range(2)]
        assert isinstance(made.there, PromptSend)


async def test_a_closed_stream_is_not_made_prompt() -> None:
    async with stream() as made:
        made.say(1)
        await made.there.close()
        send_promptly(made.there, 0.0)
        assert not isinstance(made.there, PromptSend)


async def test_a_message_goes_with_the_next_or_alone_where_none_follows() -> None:
    async with stream() as made:
        await prompt(made.there)
        send_with_next(made.there, {"op": "say", "n": 1}, 60.0)
        await asyncio.sleep(0.05)
        assert made.batches.empty()
        made.say(2)
        assert await made.batch() == [1, 2]
        send_with_next(made.there, {"op": "say", "n": 3}, 0.001)
        assert await made.batch() == [3]


async def test_between_two_batches_there_is_the_pause_that_was_asked_for() -> None:
    async with stream() as made:
        await prompt(made.there, 0.2)
        made.say(1)
        assert await made.batch() == [1]
        made.say(2)
        await asyncio.sleep(0.05)
        made.say(3)
        assert await made.batch() == [2, 3]


async def test_what_was_said_before_a_stream_is_closed_still_goes() -> None:
    async with stream() as made:
        await prompt(made.there)
        made.say(1)
        send_with_next(made.there, {"op": "say", "n": 2}, 60.0)
        await asyncio.wait_for(made.there.close(), 10)
        assert await made.batch() == [1, 2]
        assert made.there.closed()


async def test_a_closed_stream_says_so_and_takes_nothing() -> None:
    async with stream() as made:
        await prompt(made.there)
        made.there.comm.abort()
        with pytest.raises(CommClosedError):
            made.say(1)
        send_with_next(made.there, {"op": "say"}, 0.0)
        assert not made.there.buffer


@pytest.mark.parametrize(("error", "level"), [(CommClosedError("gone"), "INFO"), (ValueError("torn"), "ERROR")])
async def test_a_stream_that_cannot_be_written_is_given_up(
    error: Exception, level: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with stream() as made:
        await prompt(made.there)

        async def write(*args: Any, **kwargs: Any) -> int:
            raise error

        monkeypatch.setattr(made.there.comm, "write", write)
        with caplog.at_level(logging.INFO, logger="dask_fmware"):
            made.say(1)
            await asyncio.wait_for(made.there.stopped.wait(), 10)
        assert made.there.comm.closed()
        assert [record.levelname for record in caplog.records if record.name == "dask_fmware"] == [level]
        with pytest.raises(CommClosedError):
            made.say(2)


async def test_a_prompt_stream_counts_and_remembers_as_a_stock_one() -> None:
    async with stream() as made:
        made.there.recent_message_log = deque(maxlen=10)
        await prompt(made.there)
        made.say(1, 2)
        await made.batch()
        there = made.there
        assert isinstance(there, PromptSend)
        assert (there.message_count, there.batch_count, there.byte_count > 0) == (2, 1, True)
        assert [message["n"] for message in there.recent_message_log[-1]] == [1, 2]
