"""Engines that crash or have no memory, and prompts that crash every engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import AttemptsExhaustedError
from dask_fmware.model.messages import ReplicaFailed
from dask_fmware_scheduler.services.arrivals import Arrivals
from dask_fmware_workers import loading
from dask_fmware_workers.engines import create_engine
from tests.cluster.flows import one

CRASH = {"when": "boom", "fault": "crash", "at_token": 3}


async def test_a_call_whose_engine_crashes_finishes_on_another_replica(serving: Any) -> None:
    async with serving("small", on={"bad": 1, "good": 1}, placements={"bad": {"rules": [CRASH]}}) as cluster:
        futures = [cluster.client.compute(one(f"boom {n}")) for n in range(6)]
        answers = await cluster.client.gather(futures)
        assert len(answers) == 6
        attempts = [a for f in futures for call in (await fm.report(f)).data.calls for a in call.attempts]
        assert any(a.accelerator == "bad" and a.outcome in ("retry", "lost", "aborted") for a in attempts)
        assert {a.accelerator for a in attempts if a.outcome == "finished"} == {"good"}
        for future in futures:
            future.release()


async def test_a_call_whose_engine_is_out_of_memory_finishes_on_another_replica(serving: Any) -> None:
    full = {"when": "boom", "fault": "memory", "at_token": 3}
    async with serving("small", on={"bad": 1, "good": 1}, placements={"bad": {"rules": [full]}}) as cluster:
        futures = [cluster.client.compute(one(f"boom {n}")) for n in range(6)]
        assert len(await cluster.client.gather(futures)) == 6
        attempts = [a for f in futures for call in (await fm.report(f)).data.calls for a in call.attempts]
        assert any(a.accelerator == "bad" and "out of memory" in a.error for a in attempts)
        assert {a.accelerator for a in attempts if a.outcome == "finished"} == {"good"}
        for future in futures:
            future.release()


async def test_a_crashed_engine_is_started_again_and_serves(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_sound_engine(kind: str, arguments: dict[str, Any]) -> Any:
        return create_engine(kind, {**arguments, "rules": []})

    async with serving("small", rules=[CRASH], router={"max_attempts": 3}) as cluster:
        monkeypatch.setattr(loading, "create_engine", create_sound_engine)
        before = cluster.engines["small-cpu-0"]
        future = cluster.client.compute(one("boom"))
        await cluster.until(lambda: cluster.engines.get("small-cpu-0") not in (None, before))
        assert (await cluster.client.compute(one("fine"))).model == "small"
        assert (await future).model == "small"
        future.release()


async def test_an_engine_that_is_started_again_has_the_next_incarnation_and_old_news_do_not_take_it_away(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_sound_engine(kind: str, arguments: dict[str, Any]) -> Any:
        return create_engine(kind, {**arguments, "rules": []})

    async with serving("small", rules=[CRASH]) as cluster:
        monkeypatch.setattr(loading, "create_engine", create_sound_engine)
        future = cluster.client.compute(one("boom"))
        assert (await future).model == "small"
        (state,) = cluster.router.machine.fleet
        assert state.replica.incarnation == 1
        late = ReplicaFailed("small-cpu-0", "small", "cpu", "it died", will_retry=True).to_wire()
        del late["op"]
        cluster.router.service(Arrivals).messages()[ReplicaFailed.op](worker=state.replica.replica_id, **late)
        assert list(cluster.router.machine.fleet) == [state]
        future.release()


async def test_a_call_that_crashes_every_engine_ends_after_the_permitted_attempts(serving: Any) -> None:
    async with serving("small", on={"cpu": 3}, rules=[CRASH], router={"max_attempts": 3}) as cluster:
        future = cluster.client.compute(one("boom"))
        with pytest.raises(AttemptsExhaustedError, match=r"node 'call': 3 attempts failed \(router.max_attempts=3\)"):
            await future
        (call,) = (await fm.report(future)).data.calls
        assert [attempt.outcome for attempt in call.attempts] == ["lost"] * 3
        assert all("scripted: the engine crashed" in attempt.error for attempt in call.attempts)
        assert len({attempt.replica for attempt in call.attempts}) == 3
        future.release()
        await cluster.until(lambda: len(cluster.router.machine.fleet) == 3, "the replicas come back")


async def test_a_run_whose_attempts_are_used_up_has_all_of_them_again_when_its_user_retries_it(serving: Any) -> None:
    async with serving("small", on={"cpu": 2}, rules=[CRASH], router={"max_attempts": 2}) as cluster:
        future = cluster.client.compute(one("boom"))
        for tries in (2, 4):
            with pytest.raises(AttemptsExhaustedError, match="node 'call': 2 attempts failed"):
                await asyncio.wait_for(future, 20)
            (call,) = (await fm.report(future)).data.calls
            assert len(call.attempts) == tries
            await cluster.until(lambda: len(cluster.router.machine.fleet) == 2, "the replicas come back")
            if tries == 4:
                for engine in cluster.engines.values():
                    engine.rules = []
            await future.retry()
        assert (await asyncio.wait_for(future, 20)).model == "small"
        (call,) = (await fm.report(future)).data.calls
        assert (call.state, len(call.attempts)) == ("finished", 5)
        future.release()


@pytest.mark.slow
async def test_neighbours_of_calls_that_crash_every_engine_are_served(serving: Any) -> None:
    async with serving("small", on={"cpu": 2}, rules=[{"when": "boom", "fault": "crash", "at_token": 1}]) as cluster:
        neighbours, poison = [], []
        for n in range(4):
            poison.append(cluster.client.compute(one(f"boom {n}")))
            neighbours += [cluster.client.compute(one(f"beside it {n} {i}")) for i in range(4)]
        answers = await cluster.client.gather(neighbours)
        assert {answer.model for answer in answers} == {"small"}
        for future in poison:
            with pytest.raises(AttemptsExhaustedError):
                await future
        lost = [a for f in neighbours for call in (await fm.report(f)).data.calls for a in call.attempts[:-1]]
        assert lost
        for future in [*neighbours, *poison]:
            future.release()


async def test_calls_on_their_way_to_a_crashed_engine_are_served_elsewhere(serving: Any) -> None:
    async with serving("small", on={"bad": 1, "good": 1}, slots=16) as cluster:
        bad = cluster.engines["small-bad-0"]
        bad.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(16)]
        await cluster.until(lambda: bad.state().running > 0)
        bad.crash()
        more = [cluster.client.compute(one(f"more {n}")) for n in range(16)]
        assert len(await cluster.client.gather([*futures, *more])) == 32
        for future in [*futures, *more]:
            future.release()
