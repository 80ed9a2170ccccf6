"""Workers that go, pause and come, while calls are on them or on their way to them."""

from __future__ import annotations

import asyncio
from typing import Any

import dask.config
import pytest
from distributed.metrics import time

import dask_fmware as fm
from dask_fmware.model.replica import ACCELERATOR_LABEL, MODEL_LABEL, label
from dask_fmware.testing import InProcessCluster, deployment
from tests.cluster.flows import fan, one, rag, where


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


async def test_calls_wait_for_their_turn_where_dask_is_told_to_fail_what_no_worker_may_run(serving: Any) -> None:
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "400ms"}):
        async with serving("small", slots=1) as cluster:
            engine = cluster.engines["small-cpu-0"]
            engine.pause()
            futures = [cluster.client.compute(one(f"{n}")) for n in range(4)]
            await cluster.until(lambda: cluster.router.machine.held == 3)
            await asyncio.sleep(1.2)
            engine.resume()
            assert len(await cluster.client.gather(futures)) == 4
            for future in futures:
                future.release()


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
        await cluster.until(lambda: cluster.router.machine.fleet.get(worker.address).standing.is_draining)
        state = await fm.status(cluster.client)
        assert {one["name"]: one["paused"] for one in state["replicas"]} == {"small-a-0": True, "small-b-0": False}
        [said] = state.troubles
        assert "paused small-a-0" in said
        assert "--memory-limit 0" in said
        assert " paused " in str(state).partition("small-a-0")[2].partition("\n")[0]
        with pytest.raises(TimeoutError, match=r"missing: 1 of 'small' on 'a'; drained or paused: small-a-0; no other"):
            await fm.wait_ready(cluster.client, timeout_s=0.1)
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


async def test_a_call_that_comes_to_a_worker_as_it_is_paused_runs_elsewhere(serving: Any) -> None:
    """Dask begins no task of a worker that is paused, which it may be for ever, and takes none back."""
    from distributed.core import Status

    async with serving("small", on={"a": 1, "b": 1}, slots=1) as cluster:
        for engine in cluster.engines.values():
            engine.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(3)]
        await cluster.until(lambda: cluster.router.machine.held == 1)
        worker, runner = cluster.workers["small-a-0"], cluster.hosts["small-a-0"].runner
        grant = runner.grant

        def grant_and_pause(message: Any) -> None:
            grant(message)
            worker.status = Status.paused

        runner.grant = grant_and_pause
        cluster.engines["small-a-0"].resume()
        await cluster.until(lambda: worker.status == Status.paused)
        for engine in cluster.engines.values():
            engine.resume()
        assert len(await asyncio.wait_for(cluster.client.gather(futures), 30)) == 3
        calls = [call for future in futures for call in (await fm.report(future)).data.calls]
        outcomes = [[(a.accelerator, a.outcome) for a in call.attempts] for call in calls]
        assert [("a", "undelivered"), ("b", "finished")] in outcomes
        for future in futures:
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


async def test_a_result_that_is_lost_after_the_deadline_is_made_again_though_late_runs_are_rejected(
    serving: Any,
) -> None:
    slo = fm.SLO(e2e_s=2.0, on_miss="reject")
    async with serving("small", light_workers=2) as cluster:
        future = cluster.client.compute(one("x").options(slo=slo))
        await future
        [call] = cluster.router.machine.runs.calls.values()
        light, holders = cluster.router.placement.light, cluster.router.dask.holders
        await cluster.until(lambda: holders(future.key) <= set(light), "its result is moved")
        await cluster.until(lambda: time() > call.run.deadline, "its deadline passes")
        [holder] = holders(future.key)
        await _leave(cluster, next(name for name, worker in cluster.workers.items() if worker.address == holder))
        assert (await asyncio.wait_for(future, 20)).model == "small"
        report = await fm.report(future)
        assert (report.data.state, report.met) == ("finished", True)
        assert [attempt.outcome for attempt in report.data.calls[0].attempts] == ["finished"] * 2
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


@pytest.mark.parametrize("dies", [False, True])
async def test_a_replica_that_goes_before_a_call_has_left_for_it_gives_the_call_back(serving: Any, dies: bool) -> None:
    async with serving("small", on={"a": 1, "b": 1}, slots=1) as cluster:
        for engine in cluster.engines.values():
            engine.pause()
        futures = [cluster.client.compute(one(f"{n}")) for n in range(3)]
        await cluster.until(lambda: cluster.router.machine.held == 1)
        leaving, scheduler, router = cluster.workers["small-a-0"], cluster.scheduler, cluster.router
        state, flush = scheduler.workers[leaving.address], router.placement._flush

        def leave_then_flush() -> None:
            del router.placement._flush
            if dies:
                router.replica_gone(leaving.address)
            else:
                scheduler.handle_worker_status_change("paused", state, "test-pause")
            flush()

        router.placement._flush = leave_then_flush
        other = next(engine for name, engine in cluster.engines.items() if name != "small-a-0")
        cluster.engines["small-a-0"].resume()
        await cluster.until(lambda: "_flush" not in vars(router.placement))
        [back] = [call for call in router.machine.runs.calls.values() if call.report.state == "held"]
        assert router.dask.is_held(router.dask.task(back.call_id)), "the other replica has no room"
        if not dies:
            scheduler.handle_worker_status_change("running", state, "test-resume")
            await cluster.until(lambda: back.report.state == "finished", "it runs where it was to run before")
            outcomes = [(attempt.accelerator, attempt.outcome) for attempt in back.report.attempts]
            assert outcomes == [("a", "undelivered"), ("a", "finished")]
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
