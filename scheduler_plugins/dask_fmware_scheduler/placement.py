"""Puts tasks where they are to run, and takes back what never got there.

It owns the time between a decision and a running task: grants that wait for their task to leave the
scheduler, tasks that are unrunnable for now (in ``no-worker``), errors that wait until Dask's own transition is
over. It does not know why a call goes where it goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from dask_fmware.errors import FMwareError
from dask_fmware.model.messages import Grant
from dask_fmware.runtime import Assign
from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["Placement"]

LIGHT_PATIENCE_S = 10.0  # a nanny brings a worker back in two; plain code may be what killed it


class Placement:
    """Tasks between a decision and a worker.

    Parameters
    ----------
    dask
        Where they are.
    put_back
        Called with assignments that did not leave for their replica, outside of any transition.
    """

    def __init__(self, dask: SchedulerInternals, put_back: Callable[[list[Assign]], None]) -> None:
        self._dask = dask
        self._put_back = put_back
        self.light: list[str] = []
        self._all_light: set[str] = set()  # one for all tasks, which hold on to it: it is made anew and never changed
        self._had_light = False
        self._light_timer: asyncio.TimerHandle | None = None
        self._undelivered: dict[str, Assign] = {}  # assigned calls whose task has not left for its worker
        self._await_light: dict[str, None] = {}  # plain tasks that wait for a light worker
        self._moving: list[str] = []  # unrunnable tasks that have been pinned and wait for the next flush
        self._failing: list[tuple[str, FMwareError]] = []
        self._flushing = False
        self._renewal: asyncio.TimerHandle | None = None

    def keep_held(self) -> None:
        """Let held tasks wait for as long as it takes: Dask may be told to fail what no worker may run for so long."""
        if (patience_s := self._dask.unrunnable_s) is not None:
            self._dask.renew_held()
            self._renewal = asyncio.get_running_loop().call_later(patience_s / 4, self.keep_held)

    # -- calls -----------------------------------------------------------------------------------

    def assign(self, task: Any, action: Assign) -> None:
        """Send a call to a replica; the grant goes out with its task."""
        self._undelivered[action.call_id] = action
        self._dask.pin(task, {action.replica_id})
        self._flush_soon(action.call_id)

    def left(self, key: str) -> None:
        """A task is on its way to its worker: let its grant, if it has one, go ahead of it."""
        self._await_light.pop(key, None)
        action = self._undelivered.pop(key, None)
        if action is not None:
            self._dask.send(
                action.replica_id,
                Grant(
                    action.call_id,
                    action.attempt,
                    action.priority,
                    action.stall_s,
                    action.incarnation,
                    action.wait_s,
                    action.overdue_s,
                ).to_wire(),
            )

    def take_back(self, key: str) -> Assign | None:
        """A task will not run for now; return the assignment that its replica has never heard of."""
        self._await_light.pop(key, None)
        return self._undelivered.pop(key, None)

    def take_back_from(self, replica_id: str) -> list[Assign]:
        """Return all assignments that a replica has never heard of."""
        found = [action for action in self._undelivered.values() if action.replica_id == replica_id]
        for action in found:
            del self._undelivered[action.call_id]
        return found

    # -- plain code ------------------------------------------------------------------------------

    def to_light(self, task: Any) -> None:
        """Let a task run on light workers; where there never was one, or is none for long, anywhere.

        One whose submitter has said where it is to run is left to Dask.
        """
        if self._dask.has_place(task):
            return
        if any(map(self._dask.is_known, self.light)):  # Dask passes over one that has just died
            self._dask.pin(task, self._all_light)
        elif self._had_light and (self._light_timer is not None or self.light):
            self._dask.hold(task)
            self._await_light[task.key] = None
        else:
            self._dask.loosen(task)

    def unrunnable(self, task: Any) -> None:
        """A task has come to ``no-worker``; if it is plain code, its light workers are gone."""
        if not (self._dask.is_held(task) or self._dask.has_place(task) or task.key in self._undelivered):
            self._await_light[task.key] = None

    def add_light(self, worker: str) -> None:
        """A light worker has come, or takes tasks again."""
        if worker not in self.light:
            self.light.append(worker)
            self._all_light = set(self.light)
        self._had_light = True
        if self._light_timer is not None:
            self._light_timer.cancel()
            self._light_timer = None
        self._place_again()

    def remove_light(self, worker: str) -> None:
        """A worker has gone."""
        if worker not in self.light:
            return
        self.light.remove(worker)
        self._all_light = set(self.light)
        if not self.light:
            self._light_timer = asyncio.get_running_loop().call_later(LIGHT_PATIENCE_S, self._give_up_light)
        self._place_again()

    def _give_up_light(self) -> None:
        self._light_timer = None
        self._place_again()

    def _place_again(self) -> None:
        waited, self._await_light = self._await_light, {}
        for key in waited:
            task = self._dask.task(key)
            if task is not None and self._dask.is_unrunnable(key):
                self.to_light(task)
                if key not in self._await_light:
                    self._flush_soon(key)

    # -- moving what is unrunnable ---------------------------------------------------------------

    def move_soon(self, key: str) -> None:
        """Let Dask move an unrunnable task, outside of the transition that may be under way.

        A task that is just becoming runnable is not of these; it takes its pin along without this.
        """
        self._flush_soon(key)

    def fail_soon(self, key: str, error: FMwareError) -> None:
        """End a held task with an error."""
        self._failing.append((key, error))
        self._flush_soon()

    def fail_unrunnable(self, keys: Iterable[str], error: FMwareError) -> None:
        """End all of these that are unrunnable, at once."""
        for key in keys:
            self._dask.fail_held(key, error, "fmware-fail")

    def close(self) -> None:
        """Forget everything."""
        for timer in (self._light_timer, self._renewal):
            if timer is not None:
                timer.cancel()
        for owned in (self._undelivered, self._await_light, self._moving, self._failing):
            owned.clear()

    def _flush_soon(self, key: str | None = None) -> None:
        if key is not None:
            self._moving.append(key)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        moving, self._moving = self._moving, []
        failing, self._failing = self._failing, []
        self._dask.release_held(moving, "fmware-assign")
        stuck = [key for key in moving if key in self._undelivered and self._dask.is_unrunnable(key)]
        if stuck:
            self._put_back([self._undelivered.pop(key) for key in dict.fromkeys(stuck)])
        for key, error in failing:
            self._dask.fail_held(key, error, "fmware-fail")
