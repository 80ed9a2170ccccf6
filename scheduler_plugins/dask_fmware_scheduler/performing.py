"""Gives the machine its events and does what it says: actions become what Dask does with tasks, waits become a timer.

What an action could not reach goes back to the machine as an event. It does not know where events come from.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import assert_never

from dask_fmware.errors import FMwareError, PolicyFaultError, RuntimeFaultError
from dask_fmware.model.messages import GiveUp
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    CallRunnable,
    Event,
    Fail,
    Hold,
    Machine,
    Move,
    Refuse,
    ReplicaDraining,
    ReplicaGone,
    Skip,
    Tick,
)
from dask_fmware_scheduler.clock import Clock
from dask_fmware_scheduler.dask_internals import SchedulerInternals
from dask_fmware_scheduler.guard import Guard, guarded
from dask_fmware_scheduler.placement import Placement

__all__ = ["Performer"]


class Performer:
    """A machine whose actions are performed.

    Parameters
    ----------
    machine
        Decides.
    dask
        Where the tasks are.
    guard
        Of what Dask and timers call.
    assigned
        Called with the id of each call that was given to a replica.
    clock
        The time that the machine is told.

    Attributes
    ----------
    placement
        Tasks between a decision and a worker.
    refused
        Run id -> why no task of the run may run.
    """

    def __init__(
        self, machine: Machine, dask: SchedulerInternals, guard: Guard, assigned: Callable[[str], None], clock: Clock
    ) -> None:
        self.placement = Placement(dask, self._put_back)
        self.refused: dict[str, FMwareError] = {}
        self.stopped = False  # the machine is told nothing any more
        self._events: deque[Event] = deque()  # that it is to be told
        self._is_performing = False
        self.guard = guard
        self._machine = machine
        self._dask = dask
        self._assigned = assigned
        self._clock = clock
        self._wakes_at: float | None = None  # when the machine is told that its time has come
        self._alarm: asyncio.TimerHandle | None = None

    def tell(self, event: Event) -> None:
        """Give an event to the machine and do what it says.

        What that brings about (an assignment that does not arrive) is told when all of it is done: an answer to the
        first action may be one more assignment to the replica of the second, which must not overtake that.
        """
        self._events.append(event)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while self._events and not self.stopped:
                for action in self._machine.handle(self._events.popleft(), self._clock()):
                    self._perform(action)
        finally:
            self._is_performing = False
        self._wake_in_time()

    def replica_gone(self, replica_id: str, reason: str = "its worker is gone") -> None:
        """Tell the machine, and offer it again what had not left for that replica yet: Dask will not."""
        undelivered = self.placement.take_back_from(replica_id)
        self.tell(ReplicaGone(replica_id, reason))
        for action in undelivered:
            self.tell(AttemptEnded(action.call_id, action.attempt, "undelivered"))
            self.tell(CallRunnable(action.call_id))

    def sync_replica_of(self, call_id: str) -> None:
        """Tell the machine of a dead replica before its calls return: Dask moves them first."""
        call = self._machine.runs.calls.get(call_id)
        attempt = call.attempt if call is not None else None
        if attempt is not None and not self._dask.is_known(attempt.replica_id):
            self.replica_gone(attempt.replica_id)

    def take_back(self, key: str) -> None:
        """A task is not to run; a slot that was given to it without its replica knowing is free again."""
        if (action := self.placement.take_back(key)) is not None:
            self.tell(AttemptEnded(key, action.attempt, "undelivered"))

    def stop(self) -> None:
        """Tell the machine nothing any more, and perform nothing."""
        self.stopped = True
        self._events.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    # -- actions ---------------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case Assign():
                self._assign(action)
            case Hold():
                if (task := self._dask.task(action.call_id)) is not None:
                    self._dask.hold(task)  # it may still be pinned to a replica that it did not leave for
            case Move():
                if self._dask.is_known(action.replica_id):  # its task comes back as runnable
                    self._dask.send(action.replica_id, GiveUp(action.call_id, action.attempt).to_wire())
            case Skip():
                if (task := self._dask.task(action.call_id)) is not None:
                    self.placement.to_light(task)
                    self.placement.move_soon(action.call_id)
            case Fail():
                if isinstance(action.error, PolicyFaultError):
                    self.guard.policy_failed(action.error.__cause__ or action.error)
                self.placement.fail_soon(action.call_id, action.error)
            case Refuse():
                self.refused[action.run_id] = action.error
            case _:
                assert_never(action)

    def _assign(self, action: Assign) -> None:
        task = self._dask.task(action.call_id)
        if task is None or not self._dask.takes_tasks(action.replica_id):
            self._put_back([action])
            return
        self.placement.assign(task, action)
        self._assigned(action.call_id)

    @guarded
    def _put_back(self, actions: list[Assign]) -> None:
        """These assignments did not leave for their replica: let the machine decide again if that takes no tasks."""
        for action in actions:
            task = self._dask.task(action.call_id)
            if not self._dask.is_known(action.replica_id):
                self.replica_gone(action.replica_id)
            elif not self._dask.takes_tasks(action.replica_id):
                self.tell(ReplicaDraining(action.replica_id))
            elif task is not None:
                self._fail_stuck(action)
                continue
            self.tell(AttemptEnded(action.call_id, action.attempt, "undelivered"))
            if task is not None:
                self.tell(CallRunnable(action.call_id))

    def _fail_stuck(self, action: Assign) -> None:
        """End a call that somebody else keeps from its replica: offered again, it would be assigned without end."""
        error = RuntimeFaultError(
            f"call '{action.call_id}': Dask keeps it from its replica '{action.replica_id}', which takes tasks; look "
            "for a scheduler plugin, or a use of Scheduler.set_restrictions, that restricts where tasks run"
        )
        self.tell(AttemptEnded(action.call_id, action.attempt, "failed", error=str(error)))
        self.placement.fail_soon(action.call_id, error)

    # -- time ------------------------------------------------------------------------------------

    def _wake_in_time(self) -> None:
        """Tell the machine when the time has come that a held call waits for."""
        wake_at = self._machine.wake_at
        if wake_at is None or wake_at == self._wakes_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._wakes_at = wake_at
        self._alarm = asyncio.get_running_loop().call_later(max(wake_at - self._clock(), 0.0), self._wake)

    @guarded
    def _wake(self) -> None:
        self._alarm = self._wakes_at = None
        self.tell(Tick())
