"""Cancelling a run wherever it is: nothing of it is left, and the engine stops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import CancelledError, Client

import dask_fmware as fm
from dask_fmware_workers.attempt import Attempt
from tests.cluster.flows import fan, one, small


async def test_cancel_while_streaming_stops_the_engine_before_its_next_token(serving: Any) -> None:
    async with serving("small", token_s=0.005) as cluster:
        engine = cluster.engines["small-cpu-0"]
        future = cluster.client.compute(one("x"))
        stream = aiter(fm.stream(future))
        await anext(stream)
        engine.pause()
        await future.cancel()
        await cluster.until(lambda: engine.outcomes["abort"] == 1)
        assert engine.state().running == 0
        with pytest.raises(CancelledError):
            async for _ in stream:
                pass
        assert (await fm.report(future)).data.state == "cancelled"
        await cluster.settled()


async def test_cancel_while_held_takes_the_call_out_of_the_queue(serving: Any) -> None:
    async with serving("small", slots=1) as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        first, held, last = (cluster.client.compute(one(name)) for name in ("first", "held", "last"))
        await cluster.until(lambda: cluster.router.machine.held == 2)
        await held.cancel()
        await cluster.until(lambda: cluster.router.machine.held == 1)
        engine.resume()
        await cluster.client.gather([first, last])
        assert cluster.requests("held") == 0
        for future in (first, held, last):
            future.release()


@pytest.mark.parametrize("policy", ["round_robin", "power_of_two"])
async def test_cancel_while_queued_on_a_replica_takes_the_call_out_of_its_queue(serving: Any, policy: str) -> None:
    async with serving("small", slots=1, router={"policy": policy}) as cluster:
        engine, machine = cluster.engines["small-cpu-0"], cluster.router.machine
        engine.pause()
        first, queued, last = (cluster.client.compute(one(name)) for name in ("first", "queued", "last"))
        await cluster.until(lambda: machine.held == 2)
        await queued.cancel()
        await cluster.until(lambda: machine.held == 1)
        engine.resume()
        await cluster.client.gather([first, last])
        assert cluster.requests("queued") == 0
        for future in (first, queued, last):
            future.release()


async def test_releasing_the_only_future_has_the_effect_of_cancelling(serving: Any) -> None:
    async with serving("small", rules=[{"when": "x", "fault": "hang"}]) as cluster:
        engine = cluster.engines["small-cpu-0"]
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: engine.state().running == 1)
        del future
        await cluster.until(lambda: engine.outcomes["abort"] == 1)


async def test_cancelling_a_map_takes_its_bodies_along(serving: Any) -> None:
    async with serving("small", slots=2) as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        future = cluster.client.compute(fan([f"{n}" for n in range(8)]))
        await cluster.until(lambda: engine.state().running == 2 and cluster.router.machine.held == 6)
        await future.cancel()
        await cluster.until(lambda: engine.outcomes["abort"] == 2)
        engine.resume()
        await cluster.settled()
        assert cluster.requests() == 2


async def test_a_run_that_was_cancelled_can_run_again_while_its_engine_still_stops(serving: Any) -> None:
    async with serving("small", token_s=0.002) as cluster:
        engine = cluster.engines["small-cpu-0"]
        bound = one("x")
        for n in range(3):  # each from a client of its own: Dask cancels a key again that one client computes again
            async with Client(cluster.cluster, asynchronous=True, set_as_default=False) as other:
                future = other.compute(bound)
                await cluster.until(lambda wanted=n: len(engine.requests) > wanted)
                await future.cancel()
        future = cluster.client.compute(bound)
        assert (await future).usage.output_tokens == 64
        future.release()


async def test_a_run_that_is_asked_for_again_while_it_still_runs_leaves_no_slot_taken(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker goes on with the task that it has, whose attempt is aborted; the next one was granted by then."""
    withdraw = Attempt.withdraw
    monkeypatch.setattr(Attempt, "withdraw", lambda self: asyncio.get_running_loop().call_later(0.05, withdraw, self))
    async with serving("small", token_s=0.002) as cluster:
        client, engine, bound = cluster.client, cluster.engines["small-cpu-0"], one("x")
        for _ in range(3):
            before = len(engine.requests)
            future = client.compute(bound)
            await cluster.until(lambda before=before: len(engine.requests) > before)
            future.release()
            await asyncio.sleep(0)
            again = client.compute(bound)
            assert (await again).usage.output_tokens == 64
            assert [state.running for state in cluster.router.machine.fleet] == [{}]
            again.release()
            await cluster.settled()


async def test_cancelling_one_of_many_leaves_the_others_alone(serving: Any) -> None:
    async with serving("small", slots=4, token_s=0.001) as cluster:
        futures = [cluster.client.compute(one(f"{n}")) for n in range(24)]
        await cluster.client.cancel(futures[::3])
        kept = [future for n, future in enumerate(futures) if n % 3]
        assert len(await cluster.client.gather(kept)) == 16
        for future in futures:
            future.release()


async def test_closing_the_client_ends_its_runs(serving: Any) -> None:
    async with serving("small", rules=[{"when": "x", "fault": "hang"}]) as cluster:
        async with Client(cluster.cluster, asynchronous=True, set_as_default=False) as other:
            future = other.compute(one("x"))
            await cluster.until(lambda: cluster.engines["small-cpu-0"].state().running == 1)
            assert not future.done()
        await cluster.until(lambda: cluster.engines["small-cpu-0"].outcomes["abort"] == 1)


async def test_cancelling_while_the_inputs_of_a_call_travel_leaves_nothing(serving: Any) -> None:
    @fm.task
    def large_text(text: str) -> str:
        return text * 2_000_000

    @fm.task
    def size(first: str, second: str) -> str:
        return f"{len(first)} {len(second)}"

    @fm.workflow
    def heavy(text):
        made = large_text(text)
        return small("{text}", text=size(made, small("{text}", text=text)), name="last")

    async with serving("small") as cluster:
        for _ in range(5):
            future = cluster.client.compute(heavy("abc"))
            await cluster.until(lambda: cluster.requests() > 0)
            await future.cancel()
        await cluster.settled()
