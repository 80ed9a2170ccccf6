"""A job that is cut short, by whatever it is, loses nothing that it has recorded and goes on where it was."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import dask
import dask.bag
import pytest

import dask_fmware as fm
from dask_fmware.client.session import Session
from dask_fmware.errors import RuntimeFaultError
from dask_fmware.evaluation import driver, pacer
from dask_fmware.evaluation.output import Output, OutputError
from dask_fmware.evaluation.partitions import Partitions
from dask_fmware.evaluation.record import Record
from dask_fmware.evaluation.recorder import Recorder
from dask_fmware.evaluation.sources.source import Row
from dask_fmware.testing import InProcessCluster, deployment
from tests.evaluation.jobs import ask, data, evaluate

pytest.importorskip("pyarrow")


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


SCORED: list[str] = []  # answers that `slow` has begun with


def slow(answer: str) -> float:
    SCORED.append(answer)
    sleep(0.2)
    return 1.0


async def test_slow_scorers_hold_up_neither_the_rows_before_theirs_nor_the_end(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    SCORED.clear()
    task = asyncio.ensure_future(evaluate(cluster, ask, data(40), tmp_path / "out", scorers=slow))
    await cluster.until(lambda: len(SCORED) >= 5)
    (journal,) = (tmp_path / "out").glob("_journal-*")
    assert len(journal.read_text().splitlines()) >= 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    recorded = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(recorded) == len(SCORED) < 15
    assert {row["score.slow"] for row in recorded} == {1.0}
    assert (await evaluate(cluster, ask, data(40), tmp_path / "out", scorers=slow, limit=3)).summary.rows >= 3


async def test_what_is_answered_when_an_evaluation_ends_is_recorded(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waiting = Recorder.record, list[int]()

    async def record(recorder: Recorder, made: Record, row: Row) -> None:
        waiting.append(made.row)
        await real(recorder, made, row)

    monkeypatch.setattr(Recorder, "record", record)
    monkeypatch.setattr("dask_fmware.evaluation.recorder.WRITE_S", 3600.0)
    task = asyncio.ensure_future(evaluate(cluster, ask, data(8), tmp_path / "out", scorers=fm.scorers.exact()))
    await cluster.until(lambda: len(waiting) == 8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert (await evaluate(cluster, ask, data(8), tmp_path / "out", scorers=fm.scorers.exact())).summary.rows == 8
    assert cluster.requests() == 8


async def test_a_full_disk_stops_the_evaluation_and_it_goes_on_later(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_a_row_that_something_else_cancels_after_it_was_given_a_deadline_is_not_run_for_ever(
    cluster: InProcessCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objectives: list[Any] = []

    async def cancelled(session: Session, bound: Any) -> Any:
        objectives.append(bound.run_options.slo)
        if len(objectives) == 1:
            await asyncio.Event().wait()  # until it is cancelled, to be run with a deadline
        raise asyncio.CancelledError

    monkeypatch.setattr(Session, "outcome", cancelled)
    monkeypatch.setattr(driver, "LOOK_S", 0.01)
    for clock in (time, monotonic):
        ahead = partial(lambda now: now() + (3600.0 if objectives else 0.0), clock)
        monkeypatch.setattr(pacer, clock.__name__, ahead)
    with pytest.raises(RuntimeFaultError, match="cancelled from outside"):
        await asyncio.wait_for(evaluate(cluster, ask, data(1), tmp_path / "out", finish_by=3600.0), 30)
    assert [objective is not None for objective in objectives] == [False, True]


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


async def test_a_model_that_will_not_be_served_ends_an_evaluation_and_costs_no_row(tmp_path: Path) -> None:
    document = deployment("small")
    document["models"]["small"] |= {"engine": "llama.cpp", "arguments": {"gguf": "/nowhere/model.gguf"}}
    async with InProcessCluster(document, wait=False) as cluster:
        with pytest.raises(RuntimeFaultError, match=r"no replica of model 'small' will come.*recorded rows are safe"):
            await evaluate(cluster, ask, data(20), tmp_path / "out")
    async with InProcessCluster(deployment("small")) as cluster:
        done = await evaluate(cluster, ask, data(20), tmp_path / "out")
        assert (done.summary.rows, done.summary.errors) == (20, 0)


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
