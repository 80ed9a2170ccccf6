"""Names of runs and calls in a log: who computes a bound workflow again runs it again, under the names that it had."""

from __future__ import annotations

from dataclasses import replace

from dask_fmware.model.plan import RunPlan

__all__ = ["Names"]


class Names:
    """Gives each run names of its own, also one that was dropped and then submitted again."""

    def __init__(self) -> None:
        self._dropped: set[str] = set()  # runs
        self._times: dict[str, int] = {}  # run -> how often it was submitted again
        self._latest: dict[str, str] = {}  # run or call -> its name, where it is not the one in the log

    def of(self, name: str) -> str:
        """Return the name of a run or call, as it is called in the log at this moment."""
        return self._latest.get(name, name)

    def dropped(self, run_id: str) -> None:
        """Nobody holds a run any more."""
        self._dropped.add(run_id)

    def submitted(self, plan: RunPlan) -> RunPlan:
        """Return the plan of a run or of a body of one, with the names that are its own."""
        root = plan.run_id if plan.part_of is None else plan.part_of
        if plan.run_id in self._dropped:
            self._dropped.remove(plan.run_id)
            self._times[plan.run_id] = self._times.get(plan.run_id, 0) + 1
        if (times := self._times.get(root)) is None:
            return plan
        self._latest |= {name: f"{name} again {times}" for name in (root, plan.run_id, *(n.key for n in plan.nodes))}
        return replace(
            plan,
            run_id=self.of(plan.run_id),
            part_of=None if plan.part_of is None else self.of(root),
            nodes=tuple([replace(node, key=self.of(node.key)) for node in plan.nodes]),
            output=self.of(plan.output),
        )
