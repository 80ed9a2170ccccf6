"""Results of calls leave the replicas that made them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dask_fmware_scheduler import results
from dask_fmware_scheduler.results import ResultMover


class Memory:
    """As much of Dask as moves results; a removal of what is not there is an error, as it is there."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = {}

    def takes_tasks(self, worker: str) -> bool:
        return worker != "paused"

    def holders(self, key: str) -> set[str]:
        return set(self.held.get(key, ()))

    def is_used_on(self, key: str, worker: str) -> bool:
        return False

    def copy_results(self, keys: list[str], to: str, stimulus_id: str) -> None:
        for key in keys:
            self.held[key].add(to)

    def remove_results(self, keys: list[str], worker: str, stimulus_id: str) -> None:
        for key in keys:
            self.held[key].remove(worker)


async def test_a_result_that_was_made_twice_on_a_replica_is_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PATIENCE_S", 0.01)
    monkeypatch.setattr(results, "CHECK_S", 0.01)
    memory: Any = Memory()
    mover = ResultMover(memory, lambda: ["light"])
    memory.held = {"twice": {"replica"}, "once": {"replica"}}
    for key in ("twice", "twice", "once"):
        mover.add(key, "replica")
    for _ in range(200):
        if memory.held == {"twice": {"light"}, "once": {"light"}}:
            break
        await asyncio.sleep(0.01)
    mover.close()
    assert memory.held == {"twice": {"light"}, "once": {"light"}}


async def test_results_are_moved_to_workers_that_are_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is paused for memory fetches nothing, so what it is to take would stay on the replica."""
    monkeypatch.setattr(results, "PATIENCE_S", 0.01)
    monkeypatch.setattr(results, "CHECK_S", 0.01)
    memory: Any = Memory()
    mover = ResultMover(memory, lambda: ["paused", "light"])
    memory.held = {f"{n}": {"replica"} for n in range(4)}
    for key in memory.held:
        mover.add(key, "replica")
    for _ in range(200):
        if all("replica" not in held for held in memory.held.values()):
            break
        await asyncio.sleep(0.01)
    mover.close()
    assert memory.held == {f"{n}": {"light"} for n in range(4)}
