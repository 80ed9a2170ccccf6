"""Dask's own ``workers=`` and ``resources=`` on a run: its plain code obeys them, the router places its calls."""

from __future__ import annotations

from typing import Any

import pytest
from distributed.comm.addressing import get_address_host

import dask_fmware as fm
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.testing import InProcessCluster
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from tests.cluster.flows import one, small, where


@fm.workflow
def located(prompt):
    """A call, and where plain code after it ran."""
    return where(small("{prompt}", prompt=prompt, max_tokens=8, name="call"))


def places(cluster: InProcessCluster) -> list[dict[str, Any]]:
    replica = cluster.workers["small-cpu-0"].address
    return [
        {"resources": {"GPU": 1}},
        {"workers": cluster.workers["light-0"].address},
        {"workers": get_address_host(replica)},
        {"workers": [get_address_host(replica)], "allow_other_workers": True},
    ]


@pytest.mark.parametrize("place", range(4))
async def test_calls_go_where_the_router_sends_them_whatever_dask_is_asked_for(serving: Any, place: int) -> None:
    async with serving("small", slots=1, on={"cpu": 2}) as cluster:
        asked, engines = places(cluster)[place], cluster.engines.values()
        for engine in engines:
            engine.pause()
        futures = [cluster.client.compute(one(f"p{n}"), **asked) for n in range(6)]
        await cluster.until(lambda: cluster.router.machine.held >= 4 and cluster.requests("p") == 2)
        for engine in engines:
            engine.resume()
        await cluster.client.gather(futures)
        assert [engine.peak for engine in engines] == [1, 1]
        assert [len((await fm.report(future)).data.calls[0].attempts) for future in futures] == [1] * 6
        for future in futures:
            future.release()


async def test_plain_code_runs_where_dask_is_asked_to_run_it(serving: Any) -> None:
    async with serving("small", light_workers=2) as cluster:
        client, replica = cluster.client, cluster.workers["small-cpu-0"]
        assert await client.compute(located("x")) in ("light-0", "light-1")
        assert await client.compute(located("x"), workers=replica.address) == "small-cpu-0"
        await replica.set_resources(scanner=1)
        assert await client.compute(located("x"), resources={"scanner": 1}) == "small-cpu-0"


async def test_plain_tasks_share_one_set_of_light_workers_and_run_on_those_that_are_left(serving: Any) -> None:
    async with serving("small", light_workers=2) as cluster:
        dask, placement, pinned = cluster.router.dask, cluster.router.placement, []
        dask.pin = lambda task, workers: pinned.append(workers) or SchedulerInternals.pin(dask, task, workers)  # type: ignore[method-assign]
        both = {cluster.workers[name].address for name in ("light-0", "light-1")}
        futures = [cluster.client.compute(fm.workflow(lambda: where(), name="only")()) for _ in range(3)]
        ran_on = await cluster.client.gather(futures)
        assert all(workers is pinned[0] for workers in pinned)
        assert pinned[0] == both == set(placement.light)
        dead = cluster.workers[ran_on[0]].address
        await cluster.scheduler.remove_worker(dead, stimulus_id="test")  # its results are made again at once
        (left,) = both - {dead}
        assert await futures[0] == next(name for name, worker in cluster.workers.items() if worker.address == left)
        more = cluster.client.compute(fm.workflow(lambda: where(), name="only")())
        await more
        assert pinned[0] == both, "tasks from before hold on to it"
        assert pinned[-1] == {left}
        for future in [*futures, more]:
            future.release()


async def test_plain_code_waits_for_the_worker_that_it_is_to_run_on(serving: Any) -> None:
    async with serving("small", light_workers=2) as cluster:
        future = cluster.client.compute(located("x"), resources={"scanner": 1})
        await cluster.until(lambda: cluster.scheduler.unrunnable)
        cluster.router.placement.add_light(cluster.workers["light-0"].address)  # as when one that was paused goes on
        assert cluster.scheduler.unrunnable
        future.release()


async def test_a_call_that_something_else_keeps_from_its_replica_fails_and_frees_its_slot(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = SchedulerInternals.pin

    def pin_elsewhere(self: SchedulerInternals, task: Any, workers: set[str]) -> None:
        pin(self, task, workers)
        task.resource_restrictions = {"scanner": 1}

    async with serving("small", slots=1) as cluster:
        monkeypatch.setattr(SchedulerInternals, "pin", pin_elsewhere)
        future = cluster.client.compute(one("x"))
        with pytest.raises(RuntimeFaultError, match=r"keeps it from its replica .* which takes tasks; look for"):
            await future
        (call,) = (await fm.report(future)).data.calls
        assert (call.state, [attempt.outcome for attempt in call.attempts]) == ("failed", ["failed"])
        monkeypatch.undo()
        assert await cluster.client.compute(one("y"))
        future.release()
