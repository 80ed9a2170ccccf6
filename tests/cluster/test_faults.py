"""Engines that fail, crash, hang or never load, and workers that go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import AttemptsExhaustedError, DeploymentError, EngineLoadError
from dask_fmware.model.messages import ReplicaFailed
from dask_fmware.model.replica import ACCELERATOR_LABEL, MODEL_LABEL, label
from dask_fmware.testing import InProcessCluster, deployment
from dask_fmware.testing.scripted import ScriptedEngine
from dask_fmware_scheduler.arrivals import Arrivals
from dask_fmware_workers import host, loading
from dask_fmware_workers.engines import create_engine
from tests.cluster.flows import fan, one, rag, where

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


async def test_a_replica_that_cannot_load_is_reported_with_its_reason() -> None:
    document = deployment(
        "small", on={"bad": 1, "good": 1}, placements={"bad": {"load_error": "no such file: model.gguf"}}
    )
    async with InProcessCluster(document, wait=False) as cluster:
        await cluster.until(lambda: cluster.router.service(Arrivals).failed and len(cluster.router.machine.fleet) == 1)
        (failed,) = (await fm.status(cluster.client))["failed_replicas"]
        assert failed["name"] == "small-bad-0"
        assert "no such file: model.gguf" in failed["error"]
        assert failed["will_retry"] is True
        with pytest.raises(
            TimeoutError, match=r"1 of 2 replicas are not ready after 0.1 s \('small-bad-0': .*model.gguf"
        ):
            await fm.wait_ready(cluster.client, timeout_s=0.1)
        assert (await cluster.client.compute(one("x"))).model == "small"  # the other one serves


async def test_a_replica_whose_engine_does_not_exist_fails_wait_ready_at_once() -> None:
    document = deployment("small")
    document["models"]["small"]["engine"] = "fusion"
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(DeploymentError, match=r"replica 'small-cpu-0' .* cannot start: engine 'fusion'"):
            await fm.wait_ready(cluster.client, timeout_s=30)


async def test_a_model_file_that_is_not_there_fails_wait_ready_at_once() -> None:
    document = deployment("small")
    document["models"]["small"] |= {"engine": "llama.cpp", "arguments": {"gguf": "/nowhere/model.gguf"}}
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(DeploymentError, match=r"cannot start: llama.cpp: '/nowhere/model.gguf' does not exist"):
            await fm.wait_ready(cluster.client, timeout_s=30)
        assert (await fm.status(cluster.client))["failed_replicas"][0]["will_retry"] is False


async def test_an_engine_that_dies_while_it_loads_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    class DiesTwice(ScriptedEngine):
        async def start(self) -> None:
            starts.append(len(starts))
            if len(starts) < 3:
                raise EngineLoadError("scripted: it died while it loaded")
            await super().start()

    monkeypatch.setattr(loading, "create_engine", lambda kind, arguments: DiesTwice(**arguments))
    monkeypatch.setattr(host, "FIRST_RETRY_S", 0.01)
    async with InProcessCluster(deployment("small")) as cluster:
        assert starts == [0, 1, 2]
        assert not (await fm.status(cluster.client))["failed_replicas"]
        assert (await cluster.client.compute(one("x"))).model == "small"


async def test_calls_wait_for_a_replica_that_joins_later() -> None:
    document = deployment("small")
    async with InProcessCluster(document, wait=False) as cluster:
        await _leave(cluster, "small-cpu-0")
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: cluster.router.machine.held == 1)
        (call,) = (await fm.report(future)).data.calls
        assert (call.state, call.reason) == ("held", "no replica of model 'small' is ready")
        await _join(cluster, "late", {label(MODEL_LABEL, "small"): 1, label(ACCELERATOR_LABEL, "cpu"): 1})
        assert (await future).model == "small"
        assert (await fm.report(future)).rows[0]["replica"] == "late"
        future.release()
        await cluster.settled()


async def test_retiring_a_replica_while_its_calls_run_moves_them_elsewhere(serving: Any) -> None:
    async with serving("small", on={"old": 1, "new": 1}) as cluster:
        for engine in cluster.engines.values():
            engine.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(8)]
        await cluster.until(lambda: cluster.engines["small-old-0"].state().running == 4)
        await cluster.client.retire_workers(names=["small-old-0"])
        cluster.engines["small-new-0"].resume()
        assert len(await cluster.client.gather(futures)) == 8
        assert [r["accelerator"] for r in (await fm.status(cluster.client))["replicas"]] == ["new"]
        for future in futures:
            future.release()


async def test_a_paused_replica_gets_no_calls_and_gets_them_again_when_it_resumes(serving: Any) -> None:
    from distributed.core import Status

    async with serving("small", on={"a": 1, "b": 1}, router={"policy": "power_of_two"}) as cluster:  # it binds late
        worker, engine = cluster.workers["small-a-0"], cluster.engines["small-a-0"]
        worker.status = Status.paused
        await cluster.until(lambda: cluster.router.machine.fleet.get(worker.address).draining)
        futures = [cluster.client.compute(one(f"{n}")) for n in range(12)]
        await cluster.client.gather(futures)
        assert not engine.requests
        for other in cluster.engines.values():
            other.pause()
        more = [cluster.client.compute(one(f"more {n}")) for n in range(12)]
        await cluster.until(lambda: cluster.router.machine.held == 8)
        worker.status = Status.running
        await cluster.until(lambda: engine.state().running == 4)  # it takes what was held at once
        for other in cluster.engines.values():
            other.resume()
        await cluster.client.gather(more)
        for future in [*futures, *more]:
            future.release()


async def test_plain_code_waits_for_the_next_light_worker_when_the_only_one_goes(serving: Any) -> None:
    @fm.task
    def name_after(value: str) -> str:
        return where()

    @fm.workflow
    def spot(text):
        return name_after(fm.Model("small")("{text}", text=text))

    async with serving("small") as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        futures = [cluster.client.compute(spot(f"{n}")) for n in range(3)]
        await cluster.until(lambda: engine.state().running == 3)
        await _leave(cluster, "light-0")
        engine.resume()
        await cluster.until(lambda: len(cluster.scheduler.unrunnable) == 3)
        await _join(cluster, "light-again", {})
        assert await cluster.client.gather(futures) == ["light-again"] * 3
        for future in futures:
            future.release()


async def test_results_and_maps_on_a_light_worker_that_goes_are_made_again(serving: Any) -> None:
    async with serving("small", light_workers=2, token_s=0.002) as cluster:
        futures = [cluster.client.compute(fan([f"{n} {i}" for i in range(4)])) for n in range(8)]
        await cluster.until(lambda: cluster.requests() >= 8)
        await _leave(cluster, "light-1")
        assert [len(result) for result in await cluster.client.gather(futures)] == [4] * 8
        for future in futures:
            future.release()


async def test_a_slot_given_for_a_call_that_is_cancelled_before_it_leaves_is_free_again(serving: Any) -> None:
    async with serving("small", slots=1) as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        first = cluster.client.compute(one("first"))
        await cluster.until(lambda: engine.state().running == 1)
        second = cluster.client.compute(one("second"))
        await cluster.until(lambda: cluster.router.machine.held == 1)
        flush = cluster.router.placement._flush
        cancelled = asyncio.Event()

        def cancel_then_flush() -> None:
            cluster.scheduler.client_releases_keys([second.key], cluster.client.id, "test-cancel")
            flush()
            cancelled.set()

        cluster.router.placement._flush = cancel_then_flush
        engine.resume()
        await first
        await asyncio.wait_for(cancelled.wait(), 30)
        del cluster.router.placement._flush
        third = cluster.client.compute(one("third"))
        await third
        assert not any("second" in (request.prompt or "") for request in engine.requests)
        for future in (first, second, third):
            future.release()


async def test_a_replica_that_goes_before_a_call_has_left_for_it_gives_the_call_back(serving: Any) -> None:
    async with serving("small", on={"a": 1, "b": 1}, slots=1) as cluster:
        for engine in cluster.engines.values():
            engine.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(3)]
        await cluster.until(lambda: cluster.router.machine.held == 1)
        leaving = cluster.workers["small-a-0"]
        flush = cluster.router.placement._flush

        def leave_then_flush() -> None:
            del cluster.router.placement._flush
            state = cluster.scheduler.workers[leaving.address]
            cluster.scheduler.handle_worker_status_change("paused", state, "test-pause")
            flush()

        cluster.router.placement._flush = leave_then_flush
        cluster.engines["small-a-0"].resume()
        other = next(engine for name, engine in cluster.engines.items() if name != "small-a-0")
        await cluster.until(lambda: "_flush" not in vars(cluster.router.placement))
        other.resume()
        assert len(await cluster.client.gather(futures)) == 3
        for future in futures:
            future.release()


async def test_a_whole_workflow_survives_the_loss_of_each_replica_in_turn(serving: Any) -> None:
    async with serving(on={"a": 2}, token_s=0.001) as cluster:
        futures = [cluster.client.compute(rag(question=f"{n}")) for n in range(30)]
        for name in ("small-a-0", "large-a-2"):
            await cluster.until(lambda wanted=name: cluster.engines[wanted].outcomes["length"])
            await _leave(cluster, name)
        assert len(await cluster.client.gather(futures)) == 30
        for future in futures:
            future.release()


async def test_the_machine_knows_that_a_replica_is_dead_before_its_calls_come_back(serving: Any) -> None:
    """Else they are given to the dead replica again, as Dask takes them back before it says that the worker is gone."""
    async with serving("small", on={"a": 2}, slots=8) as cluster:
        for engine in cluster.engines.values():
            engine.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(8)]
        await cluster.until(lambda: all(engine.state().running == 4 for engine in cluster.engines.values()))
        survivor = cluster.engines["small-a-1"]
        dead = cluster.cluster.workers["small-a-0"].address
        await cluster.scheduler.remove_worker(dead, stimulus_id="test", expected=False)
        survivor.resume()
        assert len(await cluster.client.gather(futures)) == 8
        attempts = [[a.outcome for a in call.attempts] for f in futures for call in (await fm.report(f)).data.calls]
        assert sorted(attempts) == [["finished"]] * 4 + [["lost", "finished"]] * 4
        for future in futures:
            future.release()


async def _leave(cluster: Any, name: str) -> None:
    """Close a worker as if it had died: nothing is handed over."""
    worker = cluster.cluster.workers.pop(name)
    cluster.cluster.worker_spec.pop(name)
    await worker.close(nanny=False, reason="test")
    await cluster.until(lambda: worker.address not in cluster.scheduler.workers)


async def _join(cluster: Any, name: str, resources: dict[str, float]) -> None:
    from distributed import Worker

    options = {"host": "127.0.0.1", "nthreads": 6, "resources": resources, "dashboard_address": "127.0.0.1:0"}
    cluster.cluster.worker_spec[name] = {"cls": Worker, "options": options}
    await cluster.cluster._correct_state()


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


async def test_a_prompt_that_every_engine_is_silent_for_ends_and_its_neighbours_are_served(serving: Any) -> None:
    """No cascade: engines that give others tokens stay, and the call that none answers has its three attempts."""
    hang = {"when": "boom", "fault": "hang"}
    async with serving("small", on={"cpu": 3}, rules=[hang], router={"stall_s": 0.3}, token_s=0.005) as cluster:
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
