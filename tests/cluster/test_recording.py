"""Recording a cluster: what is written, what can be done with it, and what happens when it cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dask_fmware as fm
from dask_fmware.errors import RuntimeFaultError, SpecError
from dask_fmware.runtime.eventlog import EventLog
from dask_fmware.simulate.recorded import read_recorded
from dask_fmware.simulate.replay import replay
from dask_fmware.simulate.whatif import what_if
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


async def test_a_log_from_the_middle_holds_the_replicas_and_no_prompt(serving: Any, tmp_path: Path) -> None:
    async with serving() as cluster:
        await run_some(cluster)
        async with fm.record(cluster.client, str(tmp_path / "run.jsonl")) as recording:
            with pytest.raises(RuntimeFaultError, match="is being written to"):
                await cluster.client.scheduler.fmware_record(path=str(tmp_path / "other"))
            await run_some(cluster)
        assert recording.lines == len((tmp_path / "run.jsonl").read_text().splitlines())
        with pytest.raises(SpecError, match="exists on the scheduler's machine"):
            await fm.record(cluster.client, str(tmp_path / "run.jsonl"))._start()
        with pytest.raises(SpecError, match="No such file or directory"):
            await fm.record(cluster.client, str(tmp_path / "nowhere" / "run.jsonl"))._start()
    assert len(read_recorded(tmp_path / "run.jsonl").runs) == 8
    text = (tmp_path / "run.jsonl").read_text()
    assert "Q1?" not in text
    assert "find x" not in text
    with pytest.raises(SpecError, match=r"router\.record"):
        replay(tmp_path / "run.jsonl")


async def test_a_disk_that_is_full_ends_the_log_and_not_the_routing(serving: Any, tmp_path: Path) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    async with serving() as cluster:
        recording = fm.record(cluster.client, str(tmp_path / "run.jsonl"))
        await recording.start()
        router = cluster.scheduler.plugins["fmware-router"]
        recorder = next(service for service in router.services if isinstance(service, Recorder))
        recorder._file.close()
        recorder._file = Full()
        future = cluster.client.compute(rag(question="Q"))
        assert (await future).text
        assert router.failures.pop("recorder") == 1
        assert not any(isinstance(observer, EventLog) for observer in router.machine.observers)
        await recording.stop()
        assert recording.lines == 0
        future.release()
