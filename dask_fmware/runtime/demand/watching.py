"""What is asked of each model, learnt by watching the machine: arrivals, calls of a run, lengths, runs that were late.

It watches and counts; what follows from it for the replicas is `dask_fmware.provisioning`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from math import inf

from dask_fmware.errors import CapacityError
from dask_fmware.model.plan import RunPlan
from dask_fmware.provisioning.views import ModelLoad, WorkflowDemand
from dask_fmware.runtime.actions import Action, Assign, Refuse
from dask_fmware.runtime.demand.judged import WINDOW_S, JudgedRuns
from dask_fmware.runtime.demand.workflow import WatchedWorkflow
from dask_fmware.runtime.events import (
    AttemptEnded,
    CallRunnable,
    Event,
    ReplicaGone,
    RunDropped,
    RunEnded,
    RunSubmitted,
)
from dask_fmware.runtime.machine import Machine
from dask_fmware.runtime.runs.records import RunRecord

__all__ = ["Demand"]

LOOKED_AT = 500  # calls under way that are looked at for exhausted slack
MOST_WORKFLOWS = 1000


class Demand:
    """An observer of a machine.

    Parameters
    ----------
    machine
        Whose runs and replicas are looked up; add the observer to its `observers`.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._workflows: dict[str, WatchedWorkflow] = {}
        self._judged = JudgedRuns()
        self._ended: dict[str, int] = {}  # runs that somebody holds and whose end was counted -> retries before it
        self._last_call: dict[str, float] = {}
        self._busy: dict[str, float] = {}  # replica -> when it was last given a call or seen with one

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Take note of an event."""
        match event:
            case RunSubmitted():
                if event.plan.part_of is None and all(map(_is_asked, actions)):
                    self._submitted(event.plan, now)
            case CallRunnable() | AttemptEnded():
                call = self._machine.runs.calls.get(event.call_id)
                if call is not None:
                    self._last_call[call.report.model] = now
            case RunEnded():
                run = self._machine.runs.get(event.run_id)
                if run is not None and run.plan.run_id == event.run_id:
                    self._run_ended(run, now)
            case RunDropped():
                self._ended.pop(event.run_id, None)
            case ReplicaGone():
                self.forget(event.replica_id)
            case _:
                pass
        for action in actions:
            if isinstance(action, Assign):
                self._busy[action.replica_id] = now

    # -- what is learnt --------------------------------------------------------------------------

    def _submitted(self, plan: RunPlan, now: float) -> None:
        workflow = self._workflows.get(plan.workflow)
        if workflow is None:
            if len(self._workflows) >= MOST_WORKFLOWS:
                del self._workflows[next(iter(self._workflows))]
            workflow = self._workflows[plan.workflow] = WatchedWorkflow(plan.workflow, self._machine.knowledge)
        workflow.submitted(plan, now)

    def _run_ended(self, run: RunRecord, now: float) -> None:
        workflow, retries = self._workflows.get(run.plan.workflow), len(run.report.failures)
        if workflow is None or run.report.state == "refused" or self._ended.get(run.plan.run_id) == retries:
            return  # where its result is lost and made again, Dask tells its end again
        self._ended[run.plan.run_id] = retries
        if run.report.state == "finished":
            workflow.finished(run, now)
        met = run.report.met
        if met is None or (run.deadline is not None and now - run.deadline > WINDOW_S):
            return  # what was lost long ago says nothing of the replicas of this minute
        self._judged.add({call.model for call in run.report.calls if call.state != "skipped"}, met, now)

    # -- what is said ----------------------------------------------------------------------------

    def workflows(self, now: float) -> tuple[WorkflowDemand, ...]:
        """Return what every workflow asks for, with each kind of objective."""
        return tuple(flow for workflow in self._workflows.values() for flow in workflow.demands(now))

    def models(self, now: float) -> dict[str, ModelLoad]:
        """Return what is going on at every model."""
        machine = self._machine
        ended, missed = self._judged.counts(now)
        running: Counter[str] = Counter()
        in_background: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for state in machine.fleet:
            model = state.replica.model
            running[model] += len(state.running)
            in_background[model] += sum(stay.is_background for stay in state.running.values())
            waiting[model] += state.waiting
        held_in_background = self._held_in_background()
        exhausted = self._exhausted(now)
        return {
            model: ModelLoad(
                machine.waiting.held(model) + waiting[model],
                running[model],
                ended[model],
                missed[model],
                exhausted[model],
                self._last_call.get(model, -inf),
                held_in_background[model],
                in_background[model],
            )
            for model in sorted({*machine.models, *running, *self._last_call})
        }

    def idle_since(self, replica_id: str, running: int, since: float, now: float) -> float | None:
        """Since when a replica has had no calls; None while it has some. `since` is when it became ready."""
        if running:
            self._busy[replica_id] = now
            return None
        return max(self._busy.get(replica_id, since), since)

    def forget(self, replica_id: str) -> None:
        """A replica is gone."""
        self._busy.pop(replica_id, None)

    def _held_in_background(self) -> Counter[str]:
        """Calls that wait and may wait on, as their runs have no objective, by model."""
        calls = self._machine.runs.calls
        waiting = (calls[call_id] for call_id in self._machine.waiting.ids if call_id in calls)
        return Counter(call.report.model for call in waiting if call.run.deadline is None)

    def _exhausted(self, now: float) -> Counter[str]:
        """Calls that wait although they should have started, by model; of the first that are under way."""
        found: Counter[str] = Counter()
        for call in islice(self._machine.runs.calls.values(), LOOKED_AT):
            if call.report.state in ("held", "queued"):
                view = self._machine.view(call)
                if view.deadline is not None and now + view.own_s + view.after_s > view.deadline:
                    found[call.report.model] += 1
        return found


def _is_asked(action: Action) -> bool:
    """Whether a run is asked of the replicas: one for which there was no room is, one that none can serve is not."""
    return not isinstance(action, Refuse) or isinstance(action.error, CapacityError)
