"""What the slots of a cluster do, by the books of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.support.slot_time import SlotTime, read_slot_times
from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.policy import create_policy
from dask_fmware.runtime import AttemptEnded, CallRunnable, Machine, ModelLimits, ReplicaReady, RunSubmitted
from dask_fmware.runtime.eventlog import EventLog, Head
from dask_fmware.testing.views import draws
from tests.runtime.builders import replica

HEAD = Head("greedy", 0, 3, 100, {"small": (4096, 4)}, is_complete=True)


def _run(name: str, *, is_job: bool) -> RunPlan:
    call = PlannedNode("call", f"{name}-call", model="small", max_tokens=10, answers=True)
    objective = None if is_job else Objective(ttft_s=9.0)
    return RunPlan(run_id=name, workflow="one", nodes=(call,), output=call.key, objective=objective)


def _play(machine: Machine) -> None:
    """Two slots: an interactive run from 1 to 5 s, two of a job that came at 2 s and of which one waits until 4 s."""
    machine.handle(ReplicaReady(replica("a", slots=2)), 0.0)
    for at, name in ((1.0, "i"), (2.0, "j1"), (2.0, "j2")):
        machine.handle(RunSubmitted(_run(name, is_job=name != "i")), at)
        machine.handle(CallRunnable(f"{name}-call"), at)
    machine.handle(AttemptEnded("j1-call", 1, "finished", 10, 10, latency_s=1.5), 4.0)
    machine.handle(AttemptEnded("i-call", 1, "finished", 10, 10, latency_s=3.5), 5.0)
    machine.handle(AttemptEnded("j2-call", 1, "finished", 10, 10, latency_s=1.0), 6.0)


def test_slot_seconds_are_those_of_runs_of_the_job_and_of_nobody(tmp_path: Path) -> None:
    machine = Machine(create_policy("greedy", draws()), models={"small": ModelLimits(4096, 4)})
    whole, part = SlotTime(0.0, 8.0), SlotTime(2.5, 4.5)
    log = tmp_path / "log.jsonl"
    with open(log, "w") as file:
        for observer in (whole, part, EventLog(HEAD, file.write)):
            machine.observers.append(observer)
        _play(machine)
    whole.close()
    part.close()
    assert dict(whole.seconds["small"]) == pytest.approx({"interactive": 4.0, "job": 4.0, "held": 0.0, "none": 8.0})
    assert dict(part.seconds["small"]) == pytest.approx({"interactive": 2.0, "job": 2.0, "held": 0.0, "none": 0.0})
    assert whole.shares["way"] == pytest.approx(2.0 / 16.0), "8 s were taken, 6 of them in the engine"
    assert whole.shares_by_model["small"]["none"] == whole.shares["none"] == 0.5
    again = read_slot_times(log, [(0.0, 8.0), (2.5, 4.5)])
    assert [one.seconds for one in again] == [whole.seconds, part.seconds]


def test_a_slot_is_kept_back_while_calls_of_the_job_wait_beside_it() -> None:
    slot_time = SlotTime(0.0, 4.0, [replica("a", slots=3)])
    for name in ("j1", "j2"):
        slot_time.observe(RunSubmitted(_run(name, is_job=True)), [], 0.0)
        slot_time.observe(CallRunnable(f"{name}-call"), [], 1.0)
    slot_time.close()
    assert dict(slot_time.seconds["small"]) == {"interactive": 0, "job": 0, "held": 6.0, "none": 6.0}
