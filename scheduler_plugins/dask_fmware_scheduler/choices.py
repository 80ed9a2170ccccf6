"""Has runs keep to the branches that they took, where a switch is decided once more.

A value that is lost with its worker is computed again. Plain code and sampled answers may give another one then, which
takes another branch, while Dask has in memory what was done and skipped by the first: of the branch that is taken now
nothing would ever run.
"""

from __future__ import annotations

from dask_fmware.model.messages import Branched
from dask_fmware.model.plan import RunPlan
from dask_fmware.runtime import Machine
from dask_fmware_scheduler.dask_internals import SchedulerInternals

__all__ = ["Choices"]


class Choices:
    """Settles which branch a run takes.

    Parameters
    ----------
    machine
        Knows which it took.
    dask
        Knows what was done by it, and tells the tasks that are still to run.
    """

    def __init__(self, machine: Machine, dask: SchedulerInternals) -> None:
        self._machine = machine
        self._dask = dask

    def settled(self, told: Branched) -> Branched:
        """Return the branch that a run takes, where a worker has told one.

        It is the first one as long as a task that was done or skipped by it is in memory. The worker sends the branch
        before the value that decided it, so no task has begun by the other one.
        """
        run, plan = self._machine.runs.get(told.run_id), self._machine.runs.plan(told.run_id)
        known = run.branches.get(told.run_id, {}) if run is not None else {}
        if plan is None or known.get(told.switch, told.branch) == told.branch:
            return told
        branch = known[told.switch] if self._went_by(plan, told.switch) else told.branch
        for node in plan.nodes:
            self._dask.take_branch(node.key, told.switch, branch)
        return Branched(told.run_id, told.switch, branch)

    def _went_by(self, plan: RunPlan, switch: str) -> bool:
        """Whether the value of a task on a branch of a switch is in memory, skipped ones included."""
        on_branches = (node.key for node in plan.nodes if any(guard.switch == switch for guard in node.guards))
        return any(self._dask.holders(key) for key in on_branches)
