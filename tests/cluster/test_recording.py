"""Recording a cluster: what is written, what can be done with it, and what happens when it cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import RuntimeFaultError, SpecError
from dask_fmware.runtime.eventlog import EventLog
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.replay import replay
from dask_fmware.simulation.whatif import what_if
from dask_fmware_scheduler.services import recorder
from dask_fmware_scheduler.services.recorder import Recorder
from tests.cluster.flows import rag, shopping


async def run_some(cluster: Any) -> None:
    futures = [
        cluster.client.compute(made) for i in range(4) for made in (rag(question=f"Q{i}?"), shopping(message="find x"))
    ]
    for future in futures:
        await future
    for future in futures:
        future.release()
    await cluster.settled()


async def test_a_log_from_the_start_is_replayed_to_the_same_decisions(serving: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl.gz"
    async with serving(on={"fast": 1, "slow": 1}, router={"policy": "power_of_two", "record": str(path)}) as cluster:
        await run_some(cluster)
    found = replay(path)
    assert found.difference is None
    assert found.decisions >= 16
    recorded = read_recorded(path)
    assert len(recorded.runs) == 8
    assert {run.workflow for run in recorded.runs} == {"rag", "shopping"}
    assert {name: card.count for name, card in recorded.fleet.cards.items()} == {"fast": 2, "slow": 2}
    as_it_was, simulated, faster = what_if(recorded, ["slack"], add={"fast": 2})
    assert as_it_was.measured.runs == simulated.measured.runs == faster.measured.runs == 8


async def test_a_log_from_the_middle_holds_the_replicas_and_no_prompt(
    serving: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as cluster:
        await run_some(cluster)
        async with fm.record(cluster.client, str(tmp_path / "run.jsonl")) as recording:
            with pytest.raises(RuntimeFaultError, match="is being written to"):
                await fm.record(cluster.client, str(tmp_path / "other"))._start()
            await run_some(cluster)
        assert recording.lines == len((tmp_path / "run.jsonl").read_text().splitlines())
        with pytest.raises(SpecError, match="exists on the scheduler's machine"):
            await fm.record(cluster.client, str(tmp_path / "run.jsonl"))._start()
        with pytest.raises(SpecError, match="No such file or directory"):
            await fm.record(cluster.client, str(tmp_path / "nowhere" / "run.jsonl"))._start()
    assert "Traceback" not in caplog.text
    assert len(read_recorded(tmp_path / "run.jsonl").runs) == 8
    text = (tmp_path / "run.jsonl").read_text()
    assert "Q1?" not in text
    assert "find x" not in text
    with pytest.raises(SpecError, match=r"router\.record"):
        replay(tmp_path / "run.jsonl")


def recorder_of(cluster: Any) -> Recorder:
    return next(service for service in cluster.router.services if isinstance(service, Recorder))


def full_disk(buffering: int = -1) -> Any:
    return open("/dev/full", "w", buffering, encoding="utf-8")


def fill_disk(cluster: Any) -> None:
    """Let the log under way be written to a full disk."""
    one = recorder_of(cluster)
    one._file.close()
    one._file = full_disk()


async def test_a_disk_that_is_full_ends_the_log_and_not_the_routing_and_is_told(serving: Any, tmp_path: Path) -> None:
    async with serving() as cluster:
        recording = fm.record(cluster.client, str(tmp_path / "run.jsonl"))
        await recording.start()
        fill_disk(cluster)
        future = cluster.client.compute(rag(question="Q"))
        assert (await future).text
        await cluster.until(lambda: cluster.router.failures["recorder"])
        assert not any(isinstance(observer, EventLog) for observer in cluster.router.machine.observers)
        with pytest.raises(
            RuntimeFaultError, match=r"run\.jsonl is not complete: No space left on device, after \d+ lines"
        ):
            await recording.stop()
        await recording.stop()
        assert cluster.router.failures.pop("recorder") == 1
        future.release()


async def test_a_log_whose_last_lines_have_no_room_is_told(serving: Any, tmp_path: Path) -> None:
    async with serving() as cluster:
        recording = fm.record(cluster.client, str(tmp_path / "run.jsonl"))
        await recording.start()
        fill_disk(cluster)
        recorder_of(cluster)._write("{}\n")
        with pytest.raises(RuntimeFaultError, match="No space left"):
            await recording.stop()
        assert cluster.router.failures.pop("recorder") == 1


async def test_a_log_that_has_no_room_for_its_first_lines_does_not_begin(
    serving: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as cluster:
        monkeypatch.setattr(recorder, "open", lambda *given, **named: full_disk(1), raising=False)
        with pytest.raises(SpecError, match=r"run\.jsonl: No space left on device; name a file"):
            await fm.record(cluster.client, str(tmp_path / "run.jsonl")).start()
        assert cluster.router.failures.pop("recorder") == 1
        monkeypatch.undo()
        async with fm.record(cluster.client, str(tmp_path / "run.jsonl")):
            await run_some(cluster)
        assert len(read_recorded(tmp_path / "run.jsonl").runs) == 8


async def test_a_log_whose_file_is_removed_ends_and_is_told(serving: Any, tmp_path: Path) -> None:
    async with serving() as cluster:
        recording = fm.record(cluster.client, str(tmp_path / "run.jsonl.gz"))
        await recording.start()
        (tmp_path / "run.jsonl.gz").unlink()
        await cluster.until(lambda: cluster.router.failures["recorder"])
        with pytest.raises(RuntimeFaultError, match="not complete: the file was removed"):
            await recording.stop()
        assert cluster.router.failures.pop("recorder") == 1


async def test_who_stops_a_log_that_has_ended_leaves_those_of_others_alone(serving: Any, tmp_path: Path) -> None:
    async with serving() as cluster:
        first = fm.record(cluster.client, str(tmp_path / "first.jsonl"))
        await first.start()
        await first.stop()
        async with fm.record(cluster.client, str(tmp_path / "second.jsonl")) as second:
            await first.stop()
            await run_some(cluster)
        assert second.lines == len((tmp_path / "second.jsonl").read_text().splitlines())
        assert len(read_recorded(tmp_path / "second.jsonl").runs) == 8
        await fm.record(cluster.client, str(tmp_path / "third.jsonl")).start()  # by somebody who has gone
        await fm.record(cluster.client, str(tmp_path / "third.jsonl")).stop()
        assert recorder_of(cluster)._path is None
