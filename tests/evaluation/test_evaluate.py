"""A workflow over a data set, on a cluster of scripted engines in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from time import sleep
from typing import Any

import dask
import dask.bag
import pytest

import dask_fmware as fm
from dask_fmware.client.session import Session
from dask_fmware.errors import RuntimeFaultError, SpecError, UnknownModelError
from dask_fmware.evaluation.driver import EvaluationStopped
from dask_fmware.evaluation.output import Output, OutputError
from dask_fmware.evaluation.partitions import Partitions
from dask_fmware.evaluation.progress import Progress
from dask_fmware.testing import InProcessCluster, deployment

pytest.importorskip("pyarrow")
small = fm.Model("small")


@fm.workflow(slo=fm.SLO(ttft_s=60))
def ask(question):
    return small("{question}", question=question, max_tokens=64, name="answer")


@fm.workflow
def verdict(answer, expected):
    return small("Is {answer} {expected}?", answer=answer, expected=expected, choices=["good", "bad"], name="look")


@fm.workflow
def elsewhere(question):
    return fm.Model("unknown")("{question}", question=question)


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessCluster]:
    """One replica that says the same to every question, but for those that it fails on."""
    rules = [{"when": "engine-fault", "fault": "error"}]
    made = deployment("small", text="so it is", rules=rules)
    made["accelerators"]["cpu"]["price_per_hour"] = 3600.0
    async with InProcessCluster(made, validate=True) as cluster:
        yield cluster
        await cluster.settled()


def data(rows: int, faults: range = range(0)) -> list[dict[str, Any]]:
    """Questions, some of which the engine fails on."""
    return [{"question": f"q{n} engine-fault" if n in faults else f"q{n}", "expected": "so it is"} for n in range(rows)]


async def evaluate(cluster: InProcessCluster, workflow: Any, rows: Any, output: Path, **options: Any) -> Any:
    return await fm.evaluate(workflow, rows, output=output, client=cluster.client, progress=False, **options)


async def test_every_row_is_answered_scored_and_accounted(cluster: InProcessCluster, tmp_path: Path) -> None:
    scorers = {"exact": fm.scorers.exact(), "length": len_of, "judge": fm.scorers.judge(verdict, labels=LABELS)}
    done = await evaluate(cluster, ask, data(20), tmp_path / "out", scorers=scorers, keep=["question"])
    table = done.to_pandas()
    assert list(table["row"]) == list(range(20))
    assert list(table["input.question"]) == [f"q{n}" for n in range(20)]
    assert set(table["answer"]) == {"so it is"}
    assert set(table["score.exact"]) == {1.0}
    assert set(table["score.length"]) == {8.0}
    assert set(table["score.judge"]) <= {0.0, 1.0}
    assert table["error"].isna().all()
    first = table.iloc[0]
    assert [call["node"] for call in first["calls"]] == ["answer", "judge.look"]
    assert first["cost"] == pytest.approx(sum(call["cost"] for call in first["calls"]))
    assert first["cost"] > 0
    assert 0 < first["ttft_s"] <= first["latency_s"]
    assert first["output_tokens"] == sum(call["output_tokens"] for call in first["calls"])
    figures = done.summary
    assert (figures.rows, figures.errors, figures.scores["exact"].mean) == (20, 0, 1.0)
    assert "exact" in str(done)
    assert "exact" in done._repr_html_()
    reports = await fm.reports(cluster.client)
    assert {(r.data.deadline_s, r.data.priority) for r in reports} == {(None, -100)}  # background


LABELS = {"good": 1, "bad": 0}


def len_of(answer: str) -> int:
    return len(answer)


async def test_a_second_time_runs_nothing_again_and_a_larger_limit_goes_on(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    for limit, asked in ((5, 5), (5, 5), (12, 12), (None, 20)):
        done = await evaluate(cluster, ask, data(20), tmp_path / "out", limit=limit)
        assert (done.summary.rows, cluster.requests()) == (asked, asked)


async def test_rows_under_way_are_bounded(cluster: InProcessCluster, tmp_path: Path) -> None:
    for engine in cluster.engines.values():
        engine.pause()
    seen: list[Progress] = []
    task = asyncio.ensure_future(
        fm.evaluate(ask, data(100), output=tmp_path / "out", client=cluster.client, in_flight=6, progress=seen.append)
    )
    await cluster.until(lambda: len(cluster.router.machine.runs) == 6)
    for engine in cluster.engines.values():
        engine.resume()
    await task
    assert max(figures.running for figures in seen) <= 6
    assert (seen[-1].done, seen[-1].total, seen[-1].running) == (100, 100, 0)


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_what_a_cancelled_evaluation_recorded_is_not_asked_again(
    cluster: InProcessCluster, tmp_path: Path, cancellations: int
) -> None:
    seen: list[int] = []
    task = asyncio.ensure_future(
        fm.evaluate(
            ask, data(150), output=tmp_path / "out", client=cluster.client, progress=lambda p: seen.append(p.done)
        )
    )
    await cluster.until(lambda: seen and seen[-1] > 0)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    (journal,) = (tmp_path / "out").glob("_journal-*")
    recorded = [json.loads(line)["row"] for line in journal.read_text().splitlines()]
    assert 0 < len(recorded) == seen[-1] < 150
    done = await evaluate(cluster, ask, data(150), tmp_path / "out")
    assert list(done.to_pandas()["row"]) == list(range(150))
    asked = Counter(request.prompt for engine in cluster.engines.values() for request in engine.requests)
    assert [asked[f"q{row}"] for row in recorded] == [1] * len(recorded)


async def test_a_row_that_fails_is_recorded_and_can_be_tried_again(cluster: InProcessCluster, tmp_path: Path) -> None:
    rows = data(30, range(10, 13))
    rows[20] = {"question": None, "expected": ""}
    done = await evaluate(cluster, ask, rows, tmp_path / "out", scorers=fm.scorers.exact())
    failed = done.to_pandas().dropna(subset="error")
    assert list(failed["row"]) == [10, 11, 12, 20]
    assert "Error" in failed["error"].iloc[0]
    assert "column 'question' is empty" in failed["error"].iloc[3]
    assert failed["score.exact"].isna().all()
    assert done.summary.scores["exact"].rows == 26
    for engine in cluster.engines.values():
        engine.rules = []
    again = await evaluate(cluster, ask, rows, tmp_path / "out", scorers=fm.scorers.exact(), retry_errors=True)
    assert (again.summary.rows, again.summary.errors) == (30, 1)


@pytest.mark.parametrize("bound", [3, 0.03])
async def test_too_many_errors_stop_the_evaluation_and_are_recorded(
    cluster: InProcessCluster, tmp_path: Path, bound: float
) -> None:
    rows = data(150, range(150))
    with pytest.raises(EvaluationStopped, match=r"more than max_errors=.*most often .*retry_errors=True"):
        await evaluate(cluster, ask, rows, tmp_path / "out", max_errors=bound)
    done = await evaluate(cluster, ask, rows, tmp_path / "out", limit=1)
    assert 3 < done.summary.errors < 150


async def test_a_scorer_that_raises_costs_a_row_its_score_and_nothing_else(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    def fussy(answer: str, question: str) -> float:
        if question == "q3":
            raise ArithmeticError("no such number")
        return "two" if question == "q4" else 2.5  # type: ignore[return-value]

    done = await evaluate(cluster, ask, data(6), tmp_path / "out", scorers=[fussy, fm.scorers.matches("^so")])
    table = done.to_pandas()
    assert table["answer"].notna().all()
    assert list(table["score.fussy"].isna()) == [False, False, False, True, True, False]
    assert table["score_errors"][3] == "fussy: ArithmeticError: no such number"
    assert "a score is a number" in table["score_errors"][4]
    assert (done.summary.score_errors, done.summary.scores["fussy"].rows) == (2, 4)
    assert set(table["score.matches"]) == {1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"inputs": {"question": "qestion"}},
            r"no column 'qestion'.*did you mean 'question'.*columns: question, expected",
        ),
        ({"inputs": {"message": "question"}}, r"has no input 'message' \(inputs: question\)"),
        ({"id_column": "id"}, r"no column 'id'.*columns: question, expected"),
        ({"keep": ["topic"]}, r"no column 'topic'"),
        ({"scorers": fm.scorers.exact("truth")}, r"scorer 'exact' takes column 'truth'.*columns: question, expected"),
        ({"scorers": [len_of, len_of]}, "two scorers are named 'len_of'"),
        ({"scorers": 5}, "a scorer is a function"),
        ({"limit": -1}, "limit=-1 must be at least 0"),
        ({"finish_by": -5}, "is in the past"),
    ],
)
async def test_what_does_not_go_together_is_said_before_anything_runs(
    cluster: InProcessCluster, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        await evaluate(cluster, ask, data(3), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    assert cluster.requests() == 0


async def test_data_without_the_column_of_an_input_is_refused(cluster: InProcessCluster, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no column 'question' .*input 'question' of workflow 'ask'.*columns: text"):
        await evaluate(cluster, ask, [{"text": "x"}], tmp_path / "out")


async def test_a_model_that_is_not_deployed_is_refused(cluster: InProcessCluster, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"model 'unknown'.*deployed: small"):
        await evaluate(cluster, elsewhere, data(3), tmp_path / "out")


async def test_an_output_of_another_workflow_or_data_is_refused(cluster: InProcessCluster, tmp_path: Path) -> None:
    await evaluate(cluster, ask, data(3), tmp_path / "out")
    with pytest.raises(SpecError, match="workflow 'ask', not 'elsewhere'"):
        await evaluate(cluster, elsewhere, data(3), tmp_path / "out")
    with pytest.raises(SpecError, match="other data"):
        await evaluate(cluster, ask, data(4), tmp_path / "out")


async def test_a_full_disk_stops_the_evaluation_and_it_goes_on_later(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    real, room = os.pwrite, [20_000]

    def small_disk(fd: int, text: bytes, offset: int) -> int:
        room[0] -= len(text)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, text, offset)

    monkeypatch.setattr(os, "pwrite", small_disk)
    with pytest.raises(OutputError, match=r"the disk is full.*recorded before are safe"):
        await evaluate(cluster, ask, data(300), tmp_path / "out")
    monkeypatch.undo()
    done = await evaluate(cluster, ask, data(300), tmp_path / "out")
    assert list(done.to_pandas()["row"]) == list(range(300))


async def test_a_row_that_something_else_cancels_is_not_passed_over(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Session.outcome, Counter[str]()

    async def cancelled(session: Session, bound: Any) -> Any:
        asked["rows"] += 1
        if asked["rows"] == 5:
            raise asyncio.CancelledError
        return await real(session, bound)

    monkeypatch.setattr(Session, "outcome", cancelled)
    with pytest.raises(RuntimeFaultError, match=r"cancelled from outside.*run the same again"):
        await evaluate(cluster, ask, data(20), tmp_path / "out")
    done = await evaluate(cluster, ask, data(20), tmp_path / "out")
    assert list(done.to_pandas()["row"]) == list(range(20))


async def test_a_scheduler_that_is_lost_is_said_and_loses_nothing(tmp_path: Path) -> None:
    brief = dask.config.set({"distributed.comm.timeouts.connect": "500ms"})  # that long the client looks for it
    with brief:
        async with InProcessCluster(deployment("small", token_s=0.005)) as cluster:
            seen: list[int] = []
            task = asyncio.ensure_future(
                fm.evaluate(
                    ask,
                    data(300),
                    output=tmp_path / "out",
                    client=cluster.client,
                    progress=lambda p: seen.append(p.done),
                )
            )
            await cluster.until(lambda: seen and seen[-1] > 0)
            await cluster.scheduler.close()
            with pytest.raises(RuntimeFaultError, match=r"was lost; all recorded rows are safe"):
                await asyncio.wait_for(task, 30)
    async with InProcessCluster(deployment("small")) as cluster:
        await evaluate(cluster, ask, data(300), tmp_path / "out", limit=seen[-1])
        assert 0 < seen[-1] < 300


async def test_rows_that_would_come_too_late_in_the_background_are_given_a_deadline(tmp_path: Path) -> None:
    document = deployment("small", slots=1, token_s=0.005, router={"policy": "slack"})
    async with InProcessCluster(document) as cluster:
        done = await evaluate(cluster, ask, data(10), tmp_path / "out", finish_by=1.0, in_flight=4)
        assert done.summary.rows == 10
        reports = await fm.reports(cluster.client)
        assert any(report.data.deadline_s is not None and report.data.priority == 0 for report in reports)


async def test_rows_that_will_be_done_in_good_time_stay_in_the_background(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    await evaluate(cluster, ask, data(10), tmp_path / "out", finish_by=3600.0)
    assert {report.data.deadline_s for report in await fm.reports(cluster.client)} == {None}


@fm.task
def read(answer, path):
    return Path(path).read_text()


@fm.workflow
def reading(path):
    return read(small("Which?", name="answer"), path)


async def test_what_plain_code_raises_costs_its_row_even_if_it_looks_like_a_lost_cluster(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("yes")
    rows = [{"path": str(tmp_path / name)} for name in ("there", "not-there")]
    table = (await evaluate(cluster, reading, rows, tmp_path / "out")).to_pandas()
    assert table["error"].isna().tolist() == [True, False]
    assert "FileNotFoundError" in table["error"][1]


async def test_a_row_that_ends_every_engine_costs_itself_alone(tmp_path: Path) -> None:
    rules = [{"when": "poison", "fault": "crash"}]
    async with InProcessCluster(deployment("small", text="so", rules=rules, router={"max_attempts": 2})) as cluster:
        rows = [{"question": question} for question in ("a", "poison", "b")]
        table = (await evaluate(cluster, ask, rows, tmp_path / "out", in_flight=1)).to_pandas()
    assert table["error"].isna().tolist() == [True, False, True]
    assert "AttemptsExhaustedError" in table["error"][1]


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_an_evaluation_that_is_cancelled_while_its_output_opens_lets_go_of_it(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancellations: int
) -> None:
    opened, go_on, real = threading.Event(), threading.Event(), Output._recover

    def waiting(output: Output, repair: bool) -> None:
        opened.set()
        assert go_on.wait(30)
        real(output, repair)

    monkeypatch.setattr(Output, "_recover", waiting)
    task = asyncio.ensure_future(evaluate(cluster, ask, data(3), tmp_path / "out"))
    await asyncio.to_thread(opened.wait, 30)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await evaluate(cluster, ask, data(3), tmp_path / "out")).summary.rows == 3


async def test_a_bag_is_read_by_partitions(cluster: InProcessCluster, tmp_path: Path) -> None:
    bag = dask.bag.from_sequence(data(10), npartitions=3)
    table = (await asyncio.wait_for(evaluate(cluster, ask, bag, tmp_path / "out"), 30)).to_pandas()
    assert list(table["row"]) == list(range(10))


async def test_a_thread_that_waits_for_a_partition_ends_with_the_evaluation(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gone = Partitions.compute, threading.Event()

    def compute(partitions: Partitions, part: Any) -> Any:
        try:
            return real(partitions, part)
        finally:
            gone.set()

    monkeypatch.setattr(Partitions, "compute", compute)
    bag = dask.bag.from_delayed([dask.delayed(until_told)(str(tmp_path / "told"))])
    task = asyncio.ensure_future(evaluate(cluster, ask, bag, tmp_path / "out"))
    await cluster.until(lambda: (tmp_path / "told.begun").exists())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(gone.wait, 30)
    (tmp_path / "told").touch()


def until_told(path: str) -> list[dict[str, str]]:
    Path(f"{path}.begun").touch()
    for _ in range(2000):
        if not Path(path).exists():
            sleep(0.01)
    return [{"question": "q", "expected": "a"}]
