"""Moves the results of calls off model-hosting workers.

A result stays where it was made until it is used. If its replica died before that, the model would be
called again; so results that are not used at once are moved to a light worker. A copy alone would not
last: Dask's active memory manager removes it within two seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["ResultMover"]

PATIENCE_S = 1.0  # at least; most results are used or fetched sooner, and moving one costs as much as a small call
CHECK_S = 0.1  # until a copy has arrived; within two seconds Dask would remove it as one too many
STIMULUS = "fmware-move-result"


class ResultMover:
    """Collects results of calls and moves those that are still only on replicas."""

    def __init__(self, dask: SchedulerInternals, light: Callable[[], list[str]]) -> None:
        self._dask = dask
        self._light = light
        self._fresh: list[tuple[str, str]] = []  # (key, replica)
        self._aged: list[tuple[str, str]] = []  # unused for a while, to be moved next
        self._copied: list[tuple[str, str, str, int]] = []  # (key, replica, light worker, checks left)
        self._timer: asyncio.TimerHandle | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._turn = 0

    def add(self, key: str, replica: str) -> None:
        """Look after the result of a call on a replica."""
        self._fresh.append((key, replica))
        self._wake()

    def close(self) -> None:
        """Stop moving."""
        for timer in (self._timer, self._check_timer):
            if timer is not None:
                timer.cancel()
        self._fresh.clear()
        self._aged.clear()
        self._copied.clear()

    def _wake(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._move)

    def _move(self) -> None:
        self._timer = None
        aged, self._aged, self._fresh = self._aged, self._fresh, []
        if self._aged:
            self._wake()
        light = [worker for worker in self._light() if self._dask.takes_tasks(worker)]  # a paused one fetches nothing
        if light:
            wanted: dict[str, list[str]] = {}
            for key, replica in aged:
                if self._dask.holders(key) == {replica}:
                    self._turn += 1
                    target = light[self._turn % len(light)]
                    wanted.setdefault(target, []).append(key)
                    self._copied.append((key, replica, target, 20))
            for target, keys in wanted.items():
                self._dask.copy_results(keys, target, STIMULUS)
        self._check_soon()

    def _check_soon(self) -> None:
        if self._copied and self._check_timer is None:
            self._check_timer = asyncio.get_running_loop().call_later(CHECK_S, self._remove_copied)

    def _remove_copied(self) -> None:
        self._check_timer = None
        waiting: list[tuple[str, str, str, int]] = []
        removable: dict[str, dict[str, None]] = {}  # by replica; one that was made again may be in there twice
        for key, replica, target, checks in self._copied:
            holders = self._dask.holders(key)
            if replica not in holders:
                continue
            if target in holders and not self._dask.is_used_on(key, replica):
                removable.setdefault(replica, {})[key] = None
            elif checks:
                waiting.append((key, replica, target, checks - 1))
        self._copied = waiting
        for replica, keys in removable.items():
            self._dask.remove_results(list(keys), replica, STIMULUS)
        self._check_soon()
