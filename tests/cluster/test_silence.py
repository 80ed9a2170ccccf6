"""Engines that give no token: given up after a while, or moved elsewhere before their objective is missed."""

from __future__ import annotations

import asyncio
from typing import Any

import dask.config
import pytest
from distributed import Client

import dask_fmware as fm
from dask_fmware.errors import AttemptsExhaustedError, EngineLoadError
from dask_fmware.testing import deployment
from dask_fmware_workers import host, loading
from dask_fmware_workers.engines import create_engine
from tests.cluster.chaos import pids
from tests.cluster.flows import one


@pytest.mark.parametrize("at_token", [0, 3])
async def test_a_call_that_gets_no_token_is_tried_elsewhere(serving: Any, at_token: int) -> None:
    hang = {"when": "boom", "fault": "hang", "at_token": at_token}
    router = {"stall_s": 0.3, "policy": "round_robin"}
    async with serving("small", on={"bad": 1, "good": 1}, placements={"bad": {"rules": [hang]}}, router=router) as c:
        futures = [c.client.compute(one(f"boom {n}")) for n in range(2)]
        neighbours = [c.client.compute(one(f"{n}")) for n in range(4)]
        assert len(await c.client.gather([*futures, *neighbours])) == 6
        attempts = [a for f in futures for call in (await fm.report(f)).data.calls for a in call.attempts]
        assert [a.accelerator for a in attempts if a.outcome == "finished"] == ["good", "good"]
        (stalled,) = [a for a in attempts if a.outcome == "retry"]
        assert stalled.accelerator == "bad"
        assert "EngineStalledError" in stalled.error
        assert "no token for 1.3 s" in stalled.error
        for future in [*futures, *neighbours]:
            future.release()


async def test_an_engine_that_gives_nobody_a_token_is_started_again(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = {"when": "", "fault": "hang"}
    router = {"stall_s": 0.3, "max_attempts": 4}
    async with serving("small", rules=[hang], router=router) as cluster:  # the only replica of its model
        monkeypatch.setattr(loading, "create_engine", lambda kind, made: create_engine(kind, {**made, "rules": []}))
        hung = cluster.engines["small-cpu-0"]
        future = cluster.client.compute(one("x"))
        assert (await future).model == "small"
        assert cluster.engines["small-cpu-0"] is not hung
        (call,) = (await fm.report(future)).data.calls
        assert [attempt.outcome for attempt in call.attempts] == ["retry", "lost", "finished"]
        future.release()


async def test_an_engine_that_cannot_be_closed_is_given_up_where_nobody_starts_its_process_again(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "CLOSE_S", 0.05)
    hang = {"when": "", "fault": "hang"}
    router = {"stall_s": 0.3, "max_attempts": 4}
    async with serving("small", rules=[hang], router=router) as cluster:
        let_go = asyncio.Event()
        monkeypatch.setattr(cluster.engines["small-cpu-0"], "close", let_go.wait)
        future = cluster.client.compute(one("x"))
        with pytest.raises(EngineLoadError, match=r"it could not be closed within 0\.05 s"):
            await future
        future.release()
        let_go.set()


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_process_whose_engine_cannot_be_closed_ends_and_is_started_again() -> None:
    crash = {"when": "boom", "fault": "crash", "at_token": 1}
    document = deployment("small", rules=[crash], router={"max_attempts": 1})
    with (
        dask.config.set({"distributed.worker.preload": ["tests.cluster.stuck"]}),
        fm.LocalModelCluster(document, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        fm.wait_ready(client)
        before = pids(client)["small-cpu-0"]
        with pytest.raises(AttemptsExhaustedError, match="1 attempts failed"):
            client.compute(one("boom")).result(timeout=60)
        assert client.compute(one("fine")).result(timeout=60).model == "small"
        assert pids(client)["small-cpu-0"] != before


async def test_a_prompt_that_every_engine_is_silent_for_ends_and_its_neighbours_are_served(serving: Any) -> None:
    """No cascade: engines that give others tokens stay, and the call that none answers has its three attempts."""
    hang = {"when": "boom", "fault": "hang"}
    async with serving("small", on={"cpu": 3}, rules=[hang], router={"stall_s": 1.5}, token_s=0.005) as cluster:
        engines = dict(cluster.engines)
        poison = cluster.client.compute(one("boom"))
        neighbours = []
        while not poison.done():
            neighbours += [cluster.client.compute(one(f"beside it {len(neighbours) + n}")) for n in range(6)]
            await cluster.client.gather(neighbours[-6:])
        with pytest.raises(AttemptsExhaustedError, match="3 attempts failed"):
            await poison
        assert [len(call.attempts) for f in neighbours for call in (await fm.report(f)).data.calls] == [1] * len(
            neighbours
        )
        assert cluster.engines == engines  # none was started again
        for future in [*neighbours, poison]:
            future.release()


async def test_an_engine_that_is_slow_and_gives_tokens_is_let_alone(serving: Any) -> None:
    async with serving("small", token_s=0.03, router={"stall_s": 0.3}) as cluster:
        future = cluster.client.compute(one("x"))  # takes longer than the 1.3 s without a token that are permitted
        await future
        (call,) = (await fm.report(future)).data.calls
        assert [attempt.outcome for attempt in call.attempts] == ["finished"]
        future.release()


@fm.workflow(slo=fm.SLO(ttft_s=2.0))
def prompt_answer(prompt):
    return fm.Model("small")("{prompt}", prompt=prompt, max_tokens=8, name="answer")


async def _hedged(cluster: Any, prompts: list[str]) -> tuple[list[Any], str]:
    """Calls of some prompts on a cluster that has served some before, and what is said of their runs."""
    for _ in range(2):  # what moves may cost is a share of what was served
        warm = [cluster.client.compute(prompt_answer(f"{n}")) for n in range(4)]
        await cluster.client.gather(warm)
        for future in warm:
            future.release()
    futures = [cluster.client.compute(prompt_answer(prompt)) for prompt in prompts]
    await cluster.client.gather(futures)
    calls = [call for future in futures for call in (await fm.report(future)).data.calls]
    said = "\n".join([str(await fm.explain(future)) for future in futures])
    for future in futures:
        future.release()
    return calls, said


HANG = {"bad": {"rules": [{"when": "boom", "fault": "hang"}]}}


async def test_a_call_that_gives_no_token_in_time_is_answered_in_time_elsewhere(serving: Any) -> None:
    router = {"policy": "round_robin", "hedge_budget": 0.5}
    async with serving("small", on={"bad": 1, "good": 1}, placements=HANG, router=router) as cluster:
        calls, said = await _hedged(cluster, ["boom 1", "boom 2"])
        (moved,) = [call for call in calls if len(call.attempts) == 2]
        first, second = moved.attempts
        assert (first.accelerator, first.outcome) == ("bad", "retry")
        assert first.error == "no token in time; tried elsewhere (see router.hedge_budget)"
        assert (second.accelerator, second.outcome) == ("good", "finished")
        assert first.error in said
        hung = cluster.engines["small-bad-0"]
        await cluster.until(lambda: hung.state().running == 0)
        assert not any(state.running for state in cluster.router.machine.fleet)
        assert cluster.contract.counts["attempts moved"] == 1


async def test_a_call_of_a_model_with_effects_is_tried_elsewhere_only_when_it_has_stalled(serving: Any) -> None:
    router = {"policy": "round_robin", "hedge_budget": 0.5, "stall_s": 0.3}
    made = deployment("small", on={"bad": 1, "good": 1}, placements=HANG, router=router)
    made["models"]["small"]["hedge"] = False
    async with serving(document=made) as cluster:
        calls, _ = await _hedged(cluster, ["boom 1", "boom 2"])
        (first,) = [call.attempts[0] for call in calls if len(call.attempts) == 2]
        assert "EngineStalledError" in first.error
        assert cluster.contract.counts["attempts moved"] == 0
