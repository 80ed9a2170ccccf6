"""What a report says of a run, while it goes on and after."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed.metrics import time

import dask_fmware as fm
from dask_fmware.client import asking
from dask_fmware.model.report import RunReport
from dask_fmware.observe.explain import Wait, worst_wait
from dask_fmware.runtime import machine
from dask_fmware_scheduler.services import turns
from tests.cluster.flows import fan, one, rag, shopping


async def test_a_report_has_a_row_for_each_call_with_replica_tokens_and_slack(serving: Any) -> None:
    async with serving(on={"gpu": 1}) as cluster:
        future = cluster.client.compute(rag(question="How?"))
        completion = await future
        report = await fm.report(future)
        rewrite, answer = report.rows
        assert (rewrite["node"], rewrite["model"], rewrite["replica"]) == ("rewrite", "small", "small-gpu-0")
        assert (answer["node"], answer["replica"], answer["accelerator"]) == ("answer", "large-gpu-1", "gpu")
        assert answer["tokens"] == f"{completion.usage.prompt_tokens}+{completion.usage.output_tokens}"
        assert 0 <= answer["queued_s"] <= answer["ttft_s"] <= answer["latency_s"]
        assert answer["predicted_s"] > 0
        assert answer["p90_s"] > 0
        assert 0 < answer["slack_s"] < rewrite["slack_s"] < 60
        assert report.met is True
        assert report.data.first_token_at <= report.data.finished_at
        assert "SLO met" in str(report)
        assert "<table>" in report._repr_html_()
        future.release()


async def test_a_report_during_the_run_shows_what_is_known(serving: Any) -> None:
    async with serving(slots=1) as cluster:
        for engine in cluster.engines.values():
            engine.pause()
        future = cluster.client.compute(rag(question="How?"))
        await cluster.until(lambda: cluster.engines["small-cpu-0"].state().running == 1)
        report = await fm.report(future)
        assert (report.data.state, report.met) == ("running", None)
        assert [row["state"] for row in report.rows] == ["running", "planned"]
        running, planned = report.rows
        assert 0 < running["slack_s"] <= planned["slack_s"] < 60, "slack while it goes on"
        assert "s of slack left" in str(report)
        assert report.rows[1]["replica"] is None
        for engine in cluster.engines.values():
            engine.resume()
        await future
        future.release()


async def test_runs_under_way_are_neither_bodies_nor_those_that_ended(serving: Any) -> None:
    async with serving("small") as cluster:
        (engine,) = cluster.engines.values()
        ended = cluster.client.compute(one("x"))
        await ended
        assert (await fm.status(cluster.client))["runs"] == 0, "though its future is held"
        engine.pause()
        mapped = cluster.client.compute(fan(["a", "b", "c"]))
        await cluster.until(lambda: engine.state().running == 3)
        assert (await fm.status(cluster.client))["runs"] == 1
        engine.resume()
        await mapped
        assert (await fm.status(cluster.client))["runs"] == 0
        for future in (ended, mapped):
            future.release()


async def test_as_many_reports_are_kept_as_the_deployment_says(serving: Any) -> None:
    async with serving("small", router={"keep_reports": 2}) as cluster:
        futures = [cluster.client.compute(one(f"{number}")) for number in range(3)]
        for future in futures:
            await future
        assert len(await fm.reports(cluster.client)) == 3, "those that are held"
        for left, future in enumerate(futures):
            future.release()
            await cluster.until(lambda left=left: len(cluster.router.machine.runs) == 2 - left)
        kept = await fm.reports(cluster.client)
        assert [report.data.run_id for report in kept] == [asking.run_id_of(future) for future in futures[1:]]


async def test_a_report_shows_what_a_format_and_a_call_cost_where_there_is_something_to_show(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("small", "large", rules=[{"when": "Intent", "text": "chat"}]) as cluster:
        plain = cluster.client.compute(one("x"))
        await plain
        assert "format_tokens" not in str(await fm.report(plain))
        assert "cost" not in str(await fm.report(plain))
        for worker in cluster.cluster.workers.values():
            monkeypatch.setattr(worker.plugins["fmware-model-host"].runner, "prices", {"input": 1e4, "output": 1e5})
        future = cluster.client.compute(shopping(message="Hello"))
        await future
        report = await fm.report(future)
        intent = next(row for row in report.rows if row["node"] == "intent")
        assert intent["format_tokens"] == 0
        assert report.data.cost == pytest.approx(sum(row["cost"] for row in report.rows if row["cost"] is not None))
        assert report.data.cost > 0
        assert "format_tokens  cost" in str(report)
        assert ", cost " in report.title
        assert "<th style='text-align:left'>cost</th>" in report._repr_html_()
        plain.release()
        future.release()


async def test_a_missed_objective_is_said(serving: Any) -> None:
    async with serving("small", token_s=0.005) as cluster:
        future = cluster.client.compute(one("x").options(slo=fm.SLO(e2e_s=0.01)))
        await future
        report = await fm.report(future)
        assert report.met is False
        assert report.rows[0]["slack_s"] < 0
        assert "SLO missed" in str(report)
        future.release()


async def test_a_run_that_is_on_its_way_to_the_scheduler_is_waited_for(serving: Any) -> None:
    async with serving("small") as cluster:
        cluster.engines["small-cpu-0"].pause()
        futures = cluster.client.compute([one(f"{n}") for n in range(3)])
        assert [report.data.state for report in await fm.reports(cluster.client, futures)] == ["running"] * 3
        late = cluster.client.compute(one("late"))
        assert (await fm.report(late)).data.state == "running"
        also = cluster.client.compute(one("also"))
        assert (await fm.explain(also)).headline
        for future in [*futures, late, also]:
            future.release()


async def test_a_run_that_does_not_arrive_is_said_to_be_on_its_way(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ARRIVAL_S", 0.02)
    async with serving("small") as cluster:
        future = cluster.client.submit(asyncio.sleep, 0.3)  # no run at all, and pending for longer
        with pytest.raises(KeyError, match="has not reached the scheduler"):
            await fm.report(future)
        assert await fm.reports(cluster.client, future) == []
        await future
        future.release()


async def test_a_report_survives_its_future_and_tells_that_it_was_cancelled(serving: Any) -> None:
    async with serving("small") as cluster:
        finished, cancelled = cluster.client.compute(one("a")), None
        await finished
        cluster.engines["small-cpu-0"].pause()
        cancelled = cluster.client.compute(one("b"))
        await cluster.until(lambda: cluster.engines["small-cpu-0"].state().running == 1)
        await cancelled.cancel()
        finished.release()
        await cluster.settled()
        states = {report.data.state for report in await fm.reports(cluster.client, [finished, cancelled])}
        assert states == {"finished", "cancelled"}


async def test_a_run_that_was_cancelled_before_it_reached_the_scheduler_is_said_to_be(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("small") as cluster:
        monkeypatch.setitem(cluster.scheduler.stream_handlers, "update-graph", lambda **graph: None)
        future = cluster.client.compute(one("a"))
        await future.cancel()
        for ask in (fm.report, fm.explain):
            with pytest.raises(KeyError, match="it was cancelled before it reached the scheduler, or is no longer"):
                await ask(future)
        await cluster.settled()


async def test_options_of_a_run_reach_the_report(serving: Any) -> None:
    async with serving("small") as cluster:
        bound = one("x").options(slo=fm.SLO(ttft_s=9.0, e2e_s=30.0), tenant="lab", priority=5)
        future = cluster.client.compute(bound)
        await future
        data = (await fm.report(future)).data
        assert (data.tenant, data.priority, data.ttft_slo_s, data.e2e_slo_s) == ("lab", 5, 9.0, 30.0)
        future.release()


async def test_reports_of_all_runs_are_remembered(serving: Any) -> None:
    async with serving() as cluster:
        futures = cluster.client.compute([shopping(message=f"{n}") for n in range(5)])
        await cluster.client.gather(futures)
        reports = await fm.reports(cluster.client)
        assert [report.data.workflow for report in reports] == ["shopping"] * 5
        assert len(await fm.reports(cluster.client, futures[:2])) == 2
        for future in futures:
            future.release()


async def test_a_future_of_something_else_has_no_report(serving: Any) -> None:
    async with serving("small") as cluster:
        future = cluster.client.submit(len, "abc")
        await future
        with pytest.raises(KeyError, match=r"'len-\w+' is not known to the runtime: it is not that of a workflow"):
            await fm.report(future)
        future.release()


async def test_many_reports_keep_the_scheduler_for_no_longer_than_a_turn(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocked by what was packed, since a busy machine takes any time for anything: 0.1 ms each is a slow one."""
    packed = 0

    def packing(report: RunReport) -> bytes:
        nonlocal packed
        packed += 1
        return pack(report)

    pack = RunReport.packed
    async with serving("small") as cluster:
        cluster.engines["small-cpu-0"].pause()
        futures = cluster.client.compute([one(f"{n}") for n in range(100)])
        await cluster.until(lambda: len(cluster.router.machine.runs) == 100)
        monkeypatch.setattr(RunReport, "packed", packing)
        monkeypatch.setattr(turns, "monotonic", lambda: packed * 0.0001)
        asked, most, before = asyncio.ensure_future(cluster.scheduler.handlers["fmware_reports"]()), 0, 0
        while not asked.done():
            await asyncio.sleep(0)
            most, before = max(most, packed - before), packed
        assert len(await asked) == packed == 100
        assert most < 30
        monkeypatch.undo()
        cluster.engines["small-cpu-0"].resume()
        await cluster.client.gather(futures)
        for future in futures:
            future.release()


async def test_a_report_of_a_wide_map_keeps_the_scheduler_for_no_longer_than_a_turn(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocked as above, by the calls whose slack was worked out."""
    looked = 0

    def looking(*args: Any) -> Any:
        nonlocal looked
        for one_call in live_slack(*args):
            looked += 1
            yield one_call

    live_slack = machine.live_slack
    async with serving("small", slots=1) as cluster:
        cluster.engines["small-cpu-0"].pause()
        future = cluster.client.compute(fan([f"{n}" for n in range(100)]).options(slo=fm.SLO(e2e_s=60.0)))
        await cluster.until(lambda: cluster.router.machine.held == 99)
        monkeypatch.setattr(machine, "live_slack", looking)
        monkeypatch.setattr(turns, "monotonic", lambda: looked * 0.0001)
        run_id = asking.run_id_of(future)
        asked, most, before = asyncio.ensure_future(cluster.scheduler.handlers["fmware_report"](run_id)), 0, 0
        while not asked.done():
            await asyncio.sleep(0)
            most, before = max(most, looked - before), looked
        assert [call["live_slack_s"] > 0.0 for call in (await asked)["calls"]] == [True] * looked == [True] * 100
        assert most < 30
        monkeypatch.undo()
        cluster.engines["small-cpu-0"].resume()
        await future
        future.release()


async def test_an_explanation_keeps_the_scheduler_for_no_longer_than_a_turn(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocked as above, by the runs that were looked at; those that ended before the wait began are not among them."""
    looked = 0

    def looking(wait: Wait, other: RunReport, calls: Any) -> None:
        nonlocal looked
        looked += 1
        add(wait, other, calls)

    add = Wait.add
    async with serving("small", slots=1) as cluster:
        early = cluster.client.compute(one("early"))
        await early
        early.release()
        await cluster.settled()
        cluster.engines["small-cpu-0"].pause()
        futures = cluster.client.compute([one(f"{n}") for n in range(100)])
        await cluster.until(lambda: cluster.router.machine.held == 99)
        late = next(call.run.report for call in cluster.router.machine.runs.calls.values() if not call.attempt)
        await cluster.until(
            lambda: worst_wait(late, time()) is not None, "it has waited for longer than it took to come"
        )
        monkeypatch.setattr(Wait, "add", looking)
        monkeypatch.setattr(turns, "monotonic", lambda: looked * 0.0001)
        asked, most, before = asyncio.ensure_future(cluster.scheduler.handlers["fmware_explain"](late.run_id)), 0, 0
        while not asked.done():
            await asyncio.sleep(0)
            most, before = max(most, looked - before), looked
        assert looked == 100
        assert most < 30
        assert [(n["node"], n["attempts"]) for n in (await asked)["neighbours"]] == [("call", 1)]
        monkeypatch.undo()
        cluster.engines["small-cpu-0"].resume()
        await cluster.client.gather(futures)
        for future in futures:
            future.release()


async def test_reports_of_runs_that_ended_are_handed_on_as_they_are_kept(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("small") as cluster:
        for number in range(3):
            future = cluster.client.compute(one(f"{number}"))
            await future
            future.release()
        await cluster.settled()
        monkeypatch.setattr(RunReport, "unpacked", None)
        monkeypatch.setattr(RunReport, "packed", None)
        assert len(await cluster.scheduler.handlers["fmware_reports"]()) == 3
