"""Runs that failed and are tried again by their user."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import CapacityError, EngineError
from dask_fmware.runtime.contract import check_log
from dask_fmware.simulation.replay import open_log, replay
from dask_fmware_scheduler.services.observing import Observing
from tests.cluster.flows import fan, one, rag, small


@fm.task
def look_up(path: str) -> str:
    return Path(path).read_text()


@fm.workflow
def looked_up(path):
    return small("{found}", found=look_up(path), max_tokens=4, name="answer")


async def text_of(future: Any) -> str:
    return "".join([chunk.text async for chunk in fm.stream(future)])


async def test_a_run_that_failed_is_under_way_when_its_user_retries_it_and_ends_once_more(
    serving: Any, tmp_path: Path
) -> None:
    path, broken = tmp_path / "run.jsonl", {"when": "Answer", "fault": "error"}
    async with serving(on={"cpu": 1}, rules=[broken], router={"record": str(path)}) as cluster:
        engine, history = cluster.engines["large-cpu-1"], cluster.router.service(Observing).history
        future = cluster.client.compute(rag(question="How?"))
        with pytest.raises(EngineError):
            await asyncio.wait_for(future, 20)
        failed = await fm.report(future)
        assert (failed.data.state, failed.met, failed.data.failures, history.live_runs) == ("failed", False, (), 0)

        engine.rules = []
        engine.pause()
        await future.retry()
        await cluster.until(lambda: engine.state().running == 1)
        report = await fm.report(future)
        assert (report.data.state, report.met, report.data.finished_at, history.live_runs) == ("running", None, None, 1)
        assert "is under way" in (await fm.explain(future)).headline
        streamed = asyncio.ensure_future(text_of(future))
        await asyncio.sleep(0.05)
        assert not streamed.done()
        engine.resume()
        answer = await asyncio.wait_for(future, 20)
        assert await streamed == answer.text

        report = await fm.report(future)
        data = report.data
        assert (data.state, data.reason, report.met, history.live_runs) == ("finished", "", True, 0)
        [failure] = data.failures
        assert (failure.reason, failure.failed_at) == (failed.data.reason, failed.data.finished_at)
        assert failure.failed_at < failure.retried_at < data.first_token_at <= data.finished_at
        assert failure.reason in str(report)
        rewrite, answered = data.calls
        assert [attempt.outcome for attempt in rewrite.attempts] == ["finished", "finished"]
        assert [attempt.outcome for attempt in answered.attempts] == ["failed", "finished"]
        assert failure.retried_at <= rewrite.runnable_at < answered.runnable_at
        explained = await fm.explain(future)
        assert "met its SLO" in explained.headline
        assert f"It had failed after {failure.failed_at:.3f} s and was retried" in str(explained)
        assert (explained.path[0].kind, explained.path[0].end_s) == ("failed", failure.retried_at)
        assert [listed.data.state for listed in await fm.reports(cluster.client)] == ["finished"]

        totals = history.totals
        assert [*totals.submitted.values(), *totals.retried.values()] == [1, 1]
        assert {state: count for (_, _, state), count in totals.runs.items()} == {"failed": 1, "finished": 1}
        future.release()
    assert replay(path).difference is None
    with open_log(path) as (head, lines):
        contract = check_log(head, lines)
    assert (contract.breaches, contract.counts["runs"], contract.counts["runs retried"]) == ([], 1, 1)
    names = [json.loads(line).get("event") for line in path.read_text().splitlines()]
    assert [name for name in names if name in ("RunSubmitted", "RunEnded", "RunRetried", "CallRetried")] == [
        "RunSubmitted", "RunEnded", "RunRetried", "CallRetried", "RunEnded"
    ]  # fmt: skip


async def test_a_run_whose_plain_code_failed_is_under_way_again_too(serving: Any, tmp_path: Path) -> None:
    path = tmp_path / "passage"
    async with serving("small") as cluster:
        future = cluster.client.compute(looked_up(path=str(path)))
        with pytest.raises(FileNotFoundError):
            await asyncio.wait_for(future, 20)
        await cluster.client.retry([future])
        with pytest.raises(FileNotFoundError):
            await asyncio.wait_for(future, 20)
        path.write_text("It is blue.")
        await future.retry()
        assert (await asyncio.wait_for(future, 20)).model == "small"
        data = (await fm.report(future)).data
        assert (data.state, len(data.failures)) == ("finished", 2)
        assert all("No such file" in failure.reason for failure in data.failures)
        future.release()


async def test_a_run_that_takes_the_result_of_one_that_failed_is_retried_with_it(serving: Any, tmp_path: Path) -> None:
    path = tmp_path / "passage"
    async with serving("small") as cluster:
        first = cluster.client.compute(looked_up(path=str(path)))
        second = cluster.client.compute(one(first))
        for future in (first, second):
            with pytest.raises(FileNotFoundError):
                await asyncio.wait_for(future, 20)
        path.write_text("It is blue.")
        await first.retry()
        for future in (first, second):
            assert (await asyncio.wait_for(future, 20)).model == "small"
            data = (await fm.report(future)).data
            assert (data.state, len(data.failures)) == ("finished", 1)
            future.release()


@pytest.mark.parametrize("by_dask", [True, False])
async def test_a_call_that_is_tried_again_where_it_failed_takes_one_attempt_for_that(
    serving: Any, by_dask: bool
) -> None:
    """The worker is told to forget its error after it has heard of the next attempt."""
    async with serving("small", rules=[{"when": "boom", "fault": "error", "times": 1}]) as cluster:
        future = cluster.client.compute(one("boom"), retries=int(by_dask))
        if not by_dask:
            with pytest.raises(EngineError):
                await asyncio.wait_for(future, 20)
            await future.retry()
        assert (await asyncio.wait_for(future, 20)).model == "small"
        [call] = (await fm.report(future)).data.calls
        assert [attempt.outcome for attempt in call.attempts] == ["failed", "finished"]
        future.release()


async def test_a_map_of_which_an_item_failed_runs_again(serving: Any) -> None:
    async with serving("small", rules=[{"when": "boom", "fault": "error"}]) as cluster:
        future = cluster.client.compute(fan(prompts=["a", "boom", "c"]))
        with pytest.raises(EngineError):
            await asyncio.wait_for(future, 20)
        cluster.engines["small-cpu-0"].rules = []
        await future.retry()
        await asyncio.wait_for(future, 20)
        report = await fm.report(future)
        assert (report.data.state, len(report.data.failures)) == ("finished", 1)
        last = [row for row in report.rows if not row["before_retry"]]
        assert [row["state"] for row in last] == ["finished"] * 3, "one row for each item"
        assert "before the retry" in str(report)
        future.release()


async def test_a_run_that_was_refused_is_judged_anew_when_it_is_retried(serving: Any, tmp_path: Path) -> None:
    path = tmp_path / "passage"
    path.write_text("It is blue.")
    async with serving("small", slots=1, router={"max_held": 1}) as cluster:
        engine, history = cluster.engines["small-cpu-0"], cluster.router.service(Observing).history
        engine.pause()
        served = [cluster.client.compute(one("first"))]
        await cluster.until(lambda: engine.state().running == 1)
        served.append(cluster.client.compute(one("second")))
        await cluster.until(lambda: cluster.router.machine.held == 1)
        future = cluster.client.compute(looked_up(path=str(path)))
        with pytest.raises(CapacityError):
            await asyncio.wait_for(future, 20)
        await future.retry()
        with pytest.raises(CapacityError):
            await asyncio.wait_for(future, 20)
        data = (await fm.report(future)).data
        assert (data.state, data.failures, history.live_runs) == ("refused", (), 2)
        engine.resume()
        await cluster.client.gather(served)
        await future.retry()
        assert (await asyncio.wait_for(future, 20)).model == "small"
        data = (await fm.report(future)).data
        assert (data.state, data.reason, len(data.failures)) == ("finished", "", 1)
        assert "1 calls are held already" in data.failures[0].reason
        assert sum(history.totals.retried.values()) == 1
        for ended in [*served, future]:
            ended.release()
