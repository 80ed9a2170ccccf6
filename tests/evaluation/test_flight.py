"""Rows under way: which of them can be given a deadline, and what becomes of their runs then."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.client.session import Outcome
from dask_fmware.evaluation import driver, pacer
from dask_fmware.evaluation.flight import Flight, promotable
from dask_fmware.evaluation.pace import Pace
from dask_fmware.evaluation.record import Record
from dask_fmware.spec.slo import SLO
from dask_fmware.testing import InProcessCluster, deployment
from tests.evaluation.jobs import ask, data, evaluate, small

URGENT = SLO(e2e_s=1.0)


class Runs:
    """What rows ask for: background runs take for ever, or end at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def of(self, flight: Flight, name: str, ends: bool = False) -> Coroutine[Any, Any, Outcome]:
        async def run(objective: SLO | None) -> Outcome:
            self.asked.append((name, objective is not None))
            if objective is None and not ends:
                await asyncio.Event().wait()
            return Outcome(name, name, None, None)

        return flight.outcome(run, lambda: URGENT if flight.is_promoted else None)


def flight(number: int, started_at: float = 0.0) -> Flight:
    return Flight(Record(number, str(number)), {}, started_at)


async def test_rows_that_wait_for_nothing_take_no_place_of_those_that_do() -> None:
    runs, answered, waiting = Runs(), [flight(n) for n in range(30)], [flight(n, 10.0) for n in range(30, 50)]
    for one in answered:
        await runs.of(one, "answer", ends=True)
    under_way = [asyncio.ensure_future(runs.of(one, "answer")) for one in waiting]
    await asyncio.sleep(0)
    assert promotable([*answered, *waiting], 22, now=60.0, patience_s=2.0) == waiting
    assert promotable([*answered, *waiting], 3, now=60.0, patience_s=2.0) == waiting[:3]
    assert promotable(waiting, 22, now=11.0, patience_s=2.0) == []
    for one in waiting:
        one.promote()
    assert {outcome.value for outcome in await asyncio.gather(*under_way)} == {"answer"}
    assert promotable(waiting, 22, now=60.0, patience_s=2.0) == []


async def test_of_a_promoted_row_what_has_ended_is_kept_and_the_rest_asked_for_again() -> None:
    runs, row = Runs(), flight(0)
    await runs.of(row, "answer", ends=True)
    judging = asyncio.gather(runs.of(row, "quick", ends=True), runs.of(row, "slow"))
    await asyncio.sleep(0.01)
    assert row.waits
    row.promote()
    assert [outcome.value for outcome in await judging] == ["quick", "slow"]
    assert runs.asked == [("answer", False), ("quick", False), ("slow", False), ("slow", True)]
    assert not row.waits


async def test_a_row_that_is_cancelled_is_not_run_again() -> None:
    runs, row = Runs(), flight(0)
    running = asyncio.ensure_future(runs.of(row, "answer"))
    await asyncio.sleep(0.01)
    row.promote()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert runs.asked == [("answer", False)]


@fm.workflow
def look(answer):
    return small("Judge {answer}", answer=answer, name="look")


async def test_judges_that_keep_a_row_from_being_in_time_are_given_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Pace):
        """Says that the line is lost once all rows are answered."""

        def lag(self, done: int, promised: int, now: float, horizon_s: float) -> int:
            return 100 if now - self.start > 0.5 else 0

    monkeypatch.setattr(pacer, "Pace", Late)
    monkeypatch.setattr(driver, "LOOK_S", 0.05)
    monkeypatch.setattr(pacer, "PATIENCE", 0.05)
    pytest.importorskip("pyarrow")
    rules = [{"when": "Judge", "token_s": 0.2}]
    document = deployment("small", slots=1, text="so it is", rules=rules, router={"policy": "slack"})
    async with InProcessCluster(document) as cluster:
        scorers = fm.scorers.judge(look, labels={"so it is": 1})
        done = await evaluate(cluster, ask, data(4), tmp_path / "out", scorers=scorers, finish_by=60.0, in_flight=4)
        assert set(done.to_pandas()["score.look"]) == {1.0}
        reports = [report.data for report in await fm.reports(cluster.client)]
    answers, judged = ([r for r in reports if r.workflow == name] for name in ("ask", "look"))
    assert [r.deadline_s for r in answers] == [None] * 4, "an answer that is there is not asked for again"
    assert any(r.deadline_s is not None and r.state == "finished" for r in judged)
    assert any(r.deadline_s is None and r.state == "cancelled" for r in judged)
