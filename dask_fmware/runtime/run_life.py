"""The life of runs: accepted or refused, extended by bodies, tried again, ended; what they teach is learnt on the way.

What becomes of their calls is decided elsewhere.
"""

from __future__ import annotations

from dask_fmware.errors import FMwareError
from dask_fmware.model.plan import RunPlan
from dask_fmware.runtime.actions import Action, Refuse
from dask_fmware.runtime.dispatching.waiting import Waiting
from dask_fmware.runtime.events import Branched, RunEnded
from dask_fmware.runtime.foresight.outlook import ToCome
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.learning.histories import owners
from dask_fmware.runtime.learning.knowledge import THE_END
from dask_fmware.runtime.runs.admission import orphaned, refusal
from dask_fmware.runtime.runs.records import RunRecord, Runs
from dask_fmware.runtime.runs.shares import Shares

__all__ = ["RunLife"]


class RunLife:
    """Runs from their submission to their end.

    Parameters
    ----------
    runs
        Their records.
    views
        What is known of workflows and models, and of how long both take.
    to_come
        Where runs are that can still be in time.
    shares
        What tenants have been given.
    waiting
        The calls that wait: new runs are refused while there are too many.
    max_held
        How many these may be.
    """

    def __init__(
        self, runs: Runs, views: CallViews, to_come: ToCome, shares: Shares, waiting: Waiting, max_held: int
    ) -> None:
        self._runs = runs
        self._views = views
        self._knowledge = views.knowledge
        self._to_come = to_come
        self._shares = shares
        self._waiting = waiting
        self._max_held = max_held

    # -- accepted or refused ---------------------------------------------------------------------

    def submitted(self, plan: RunPlan, now: float) -> list[Action]:
        """Take in a run, or a body of one of its maps and loops."""
        is_known = self._runs.get(plan.run_id) is not None
        run = self._runs.add(plan, now)
        if run is None:
            return [] if is_known else [Refuse(plan.run_id, orphaned(plan))]
        return self._judged(plan, run, now)

    def retried(self, run_id: str, now: float) -> list[Action]:
        """Begin a run again that failed, or judge it again if it was refused."""
        run = self._runs.get(run_id)
        if run is None or run.plan.run_id != run_id:
            return []
        if run.report.state == "refused":
            return self._judged(run.plan, run, now)
        if run.report.state in ("failed", "rejected"):
            run.reopen(now)
        return []

    def _judged(self, plan: RunPlan, run: RunRecord, now: float) -> list[Action]:
        """Accept a plan, or refuse it as things stand; a run that was refused before is under way from now on."""
        error = refusal(
            plan,
            limits=self._views.limits,
            hosted=self._views.hosted,
            held=len(self._waiting),
            max_held=self._max_held,
        )
        if error is not None:
            return self._refused(plan, run, error)
        if plan.part_of is None:
            self._accepted(plan, run, now)
        else:
            self._extended(plan, run, now)
        return []

    def _refused(self, plan: RunPlan, run: RunRecord, error: FMwareError) -> list[Action]:
        if plan.part_of is None:
            run.report.state, run.report.reason, run.report.finished_at = "refused", str(error), 0.0
        return [Refuse(plan.run_id, error)]

    def _accepted(self, plan: RunPlan, run: RunRecord, now: float) -> None:
        if run.report.state == "refused":
            run.reopen(now)
        self._views.aim(run)
        objective_s = 1.0 if run.deadline is None else max(run.deadline - now, 0.0)
        asked = self._views.work(run).by_model, self._views.capacity
        run.excess = self._shares.submitted(plan.tenant, run.level, objective_s, now, *asked)

    # -- under way -------------------------------------------------------------------------------

    def _extended(self, plan: RunPlan, run: RunRecord, now: float) -> None:
        """A map or loop of a run has one more body."""
        within = owners(plan.nodes[0].name) if plan.nodes else []
        if not within:
            return
        self._knowledge.observe_body(run.plan.workflow, within[-1], plan.nodes)
        if within[0] not in run.bodies:
            self.paused(run, within[0], now)
        run.add_body(within, [self._runs.calls[node.key].report for node in plan.nodes if node.model is not None])

    def branched(self, event: Branched) -> None:
        """A switch of a run has decided."""
        if (run := self._runs.get(event.run_id)) is not None:
            run.take(event.run_id, event.switch, event.branch)
            self._knowledge.branches.observe(run.plan.workflow, event.switch, event.branch)

    def paused(self, run: RunRecord, node: str, now: float) -> None:
        """Learn what plain code took before a node; a run that is over makes lost results again at any time."""
        if run.report.state == "running":
            self._knowledge.nodes.observe_pause(run.plan.workflow, node, now - run.idle_since)

    # -- over ------------------------------------------------------------------------------------

    def ended(self, event: RunEnded, now: float) -> None:
        """End a run, unless it is over already."""
        run = self._runs.get(event.run_id)
        if run is None or run.plan.run_id != event.run_id or run.report.state != "running":
            return
        if event.state == "finished":
            self.paused(run, THE_END, now)
            for owner, rounds in run.rounds.items():  # of runs that were broken off they would be too few
                self._knowledge.nodes.observe_rounds(run.plan.workflow, owner, rounds, run.bodies[owner] / rounds)
        run.end(event.state, event.reason, now)
        self._to_come.ended(run)
