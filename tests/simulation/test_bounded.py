"""Nothing of a run is left in the machine once it has been dropped."""

from __future__ import annotations

import pytest

from benchmarks.bounded_memory import simulated
from dask_fmware.runtime.replicas.queue import CallQueue
from dask_fmware.testing.indexes import entries, instances

BY_RUN = [
    *(f"Runs.{name}" for name in ("_runs", "_plans", "calls", "_history")),
    *(f"ToCome.{name}" for name in ("_fresh", "_begun", "_places")),
    *("Fleet._slots", "ReplicaState.running", "ReplicaState._expected_s", "CallQueue._tickets"),
    *("Waiting.queues", "Waiting._ids", "History._live", "History._under_way"),
]


@pytest.mark.parametrize("policy", ["slack", "least_outstanding"])
def test_every_index_of_runs_is_empty_when_all_have_ended(policy: str) -> None:
    found = simulated(2000, policy)
    assert found["runs"] == 2000
    assert found["records_left"] == {}
    assert {name: found["entries"][name][1] for name in BY_RUN} == dict.fromkeys(BY_RUN, 0)


def test_what_is_left_is_found_without_being_named() -> None:
    class Leaks:
        def __init__(self) -> None:
            self._left = {"run": [CallQueue(), CallQueue()]}

    Leaks.__module__ = "dask_fmware.leaks"
    found = {name.rpartition(".")[2]: count for name, count in entries(Leaks()).items() if count}
    assert found == {"_left": 1, "_left[]": 2}
    assert instances(Leaks())["CallQueue"] == 2
