"""The router's clock, beside a wall clock that is set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from distributed.metrics import time

import dask_fmware as fm
from dask_fmware.model.plan import Objective
from dask_fmware_scheduler import clock
from dask_fmware_scheduler.clock import Clock
from tests.cluster.flows import one
from tests.runtime.builders import plan

HOUR_S, STALL_S = 3600.0, 20.0  # what a clock is set by, and what a busy machine may take between two lines


def set_wall_clock(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    monkeypatch.setattr(clock, "time", lambda: time() + by_s)


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_the_time_goes_on_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    now = Clock()
    assert abs(now() - time()) < STALL_S
    assert abs(now.set_by_s) < STALL_S
    set_wall_clock(monkeypatch, by_s)
    assert abs(now() - time()) < STALL_S
    assert abs(now.set_by_s - by_s) < STALL_S
    moment = time() + by_s + 30.0
    objective = now.of(plan("r", objective=Objective(finish_by=moment))).objective
    assert objective is not None
    assert objective.finish_by == pytest.approx(now() + 30.0, abs=STALL_S)
    for kept in (plan("r"), plan("r", objective=Objective(e2e_s=2.0))):
        assert now.of(kept) is kept


async def test_runs_reports_and_objectives_go_on_when_the_wall_clock_is_set(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("small") as cluster:
        engine = cluster.engines["small-cpu-0"]
        engine.pause()
        future = cluster.client.compute(one("x"))
        await cluster.until(lambda: engine.state().running == 1)
        set_wall_clock(monkeypatch, HOUR_S)
        assert "is under way" in (await fm.explain(future)).headline
        engine.resume()
        await future
        assert 0.0 < (await fm.report(future)).data.finished_at < 60.0
        by = datetime.fromtimestamp(time() + HOUR_S + 30.0, UTC)
        bound = cluster.client.compute(one("y").options(slo=fm.SLO(finish_by=by)))
        await bound
        report = await fm.report(bound)
        assert (report.met, report.data.finish_by_s) == (True, pytest.approx(30.0, abs=STALL_S))
        for ended in (future, bound):
            ended.release()
