"""The time by which the router and its services go, whatever becomes of the wall clock.

A wall clock is set by people and by NTP, and jumps over the time for which its machine was suspended. Seen by it, calls
would have taken hours or less than nothing, replicas be shut for as long, and all of that be learnt.
"""

from __future__ import annotations

from dataclasses import replace

from distributed.metrics import monotonic, time

from dask_fmware.model.plan import RunPlan

__all__ = ["Clock"]


class Clock:
    """Seconds since the epoch when it is made, and from there on those that have passed."""

    def __init__(self) -> None:
        self._began: float = time() - monotonic()

    def __call__(self) -> float:
        """Return the time."""
        return self._began + float(monotonic())

    @property
    def set_by_s(self) -> float:
        """Seconds that the wall clock is ahead of it by now: for times that people or other processes read or say."""
        return float(time()) - self()

    def of(self, plan: RunPlan) -> RunPlan:
        """Return a plan whose objective names a moment of the wall clock, with that moment on this one."""
        objective = plan.objective
        if objective is None or objective.finish_by is None:
            return plan
        return replace(plan, objective=replace(objective, finish_by=objective.finish_by - self.set_by_s))
