"""What is to come: the runs that can still be in time with the calls that they have to start, and the lanes for them.

It reads runs, replicas and knowledge, and keeps the order of deadlines. It decides nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from sortedcontainers import SortedList

from dask_fmware.model.plan import PlannedNode
from dask_fmware.policy.outlook import Job, JobCall, JobStep, Lane
from dask_fmware.runtime.foresight.likely import MOST_OF_STEP, Likely, job_call
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.learning.knowledge import Shape
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.runs.open_calls import OpenCalls
from dask_fmware.runtime.runs.records import NOTHING, CallRecord, RunRecord, Runs

__all__ = ["ToCome"]

LEAST_S = 0.001  # what is overdue takes at least so much longer
MOST_CALLS = 64  # calls to start that a plan sees in all: it is made for each event

_Place: TypeAlias = tuple[int, float, int, str]  # priority (highest first), deadline, number and id of a run


class _Left(NamedTuple):
    """What a node still has to do."""

    calls: list[JobCall]  # to start, no more than a plan sees of a step
    more: int  # to start after these
    ends: float  # of those that run; 0 if none does
    is_runnable: bool  # whether any of them is


class ToCome:
    """The outlook of one machine, see `dask_fmware.policy.outlook.Outlook`."""

    def __init__(self, fleet: Fleet, runs: Runs, views: CallViews) -> None:
        self._fleet = fleet
        self._runs = runs
        self._views = views
        self._fresh: SortedList[_Place] = SortedList()
        self._begun: SortedList[_Place] = SortedList()
        self._places: dict[str, tuple[SortedList[_Place], _Place]] = {}  # run id -> where it is
        self._count = 0
        self._likely = Likely(views)

    def __len__(self) -> int:
        """Runs that can still be in time."""
        return len(self._places)

    # -- runs ------------------------------------------------------------------------------------

    def add(self, run: RunRecord) -> None:
        """A call of a run waits."""
        run_id = run.plan.run_id
        if run.deadline is None or run_id in self._places or run.report.state != "running":
            return
        self._count += 1
        self._put(self._begun if run.begun else self._fresh, (-run.plan.priority, run.deadline, self._count, run_id))
        if not run.begun:
            self._likely.submitted(run.report.submitted)

    def begun(self, run: RunRecord) -> None:
        """The first call of a run has started."""
        if (place := self._take(run.plan.run_id)) is not None:
            self._put(self._begun, place)

    def ended(self, run: RunRecord) -> None:
        """A run has ended: the next may be like it."""
        self.remove(run)
        if run.deadline is not None and run.report.state == "finished" and self._fleet.lanes:
            self._likely.ended(run)

    def remove(self, run: RunRecord) -> None:
        """A run cannot be in time any more."""
        self._take(run.plan.run_id)

    def _put(self, among: SortedList[_Place], place: _Place) -> None:
        among.add(place)
        self._places[place[-1]] = among, place

    def _take(self, run_id: str) -> _Place | None:
        found = self._places.pop(run_id, None)
        if found is None:
            return None
        among, place = found
        among.remove(place)
        return place

    # -- what policies see -----------------------------------------------------------------------

    def lanes(self, now: float) -> Sequence[Lane]:
        """Every lane with when it is free, or nothing where no plan is made."""
        found = []
        for states in self._fleet.lanes:
            stays = [stay for state in states for stay in state.running.values()]
            free_at = max((_expected(one.expected_end, now) for one in stays), default=0.0)
            replicas = {s.replica.model: self._fleet.view(s) for s in states if s.standing.is_offered}
            found.append(Lane(free_at, replicas, all(one.is_ending for one in stays)))
        return found

    def jobs(self, now: float, most: int) -> Sequence[Job]:
        """Runs that still have calls to start, the most urgent ones, those under way first."""
        jobs: list[Job] = []
        calls = 0
        for *_, run_id in heapq.merge(self._begun, self._fresh):
            if (run := self._runs.get(run_id)) is not None and (job := self._job(run, now)) is not None:
                jobs.append(job)
                calls += sum(len(step.calls) for step in job.steps)
                if len(jobs) == most or calls >= MOST_CALLS:
                    break
        return sorted(jobs, key=lambda job: not job.begun)

    def expected(self, now: float) -> Sequence[Job]:
        """Runs as they may come from now on."""
        return self._likely.jobs(now)

    # -- jobs ------------------------------------------------------------------------------------

    def _job(self, run: RunRecord, now: float) -> Job | None:
        deadline, plan = run.deadline, run.plan
        if deadline is None:
            return None
        knowledge, shape = self._views.knowledge, self._views.shape(run)
        taken = run.branches.get(plan.run_id, NOTHING)
        decided = frozenset(taken.items())
        steps: list[JobStep] = []
        places: dict[str, tuple[tuple[int, ...], float]] = {}  # node -> steps that it waits for, end of calls that run
        for node, planned in zip(shape.nodes, plan.nodes, strict=True):
            if any(guard.switch not in taken for guard in node.guards):
                continue  # it may never run
            before = [places[name] for name in node.after if name in places]
            if any(taken[guard.switch] != guard.branch for guard in node.guards):
                places[node.name] = _join(before)
                continue
            if any(name not in places for name in node.after):
                continue  # it waits for one that may never run, or for the value of a switch
            after, end = _join(before)
            left = self._left(run, shape, planned, now)
            if not left.calls:
                places[node.name] = after, max(end, left.ends)
                continue
            due = deadline - (0.0 if node.answers else knowledge.after_s(shape, node.name, decided))
            if left.more:
                due -= self._more_s(left.calls[-1], left.more)
            pause = knowledge.nodes.pause_s(shape.workflow, node.name)
            started = end if end > 0.0 else run.idle_since
            ready = now if left.is_runnable else _expected(started + pause, now) if not after else end + pause
            steps.append(
                JobStep(
                    after=after,
                    ready_at=ready,
                    pause_s=pause,
                    calls=tuple(left.calls),
                    in_turn=node.model is None and knowledge.nodes.in_turn(shape.workflow, node.name),
                    answers=node.answers,
                    due=due,
                )
            )
            places[node.name] = (len(steps) - 1,), max(end, left.ends)
        if not steps:
            return None
        submitted, begun = run.report.submitted, run.begun
        return Job(plan.run_id, plan.tenant, plan.priority, deadline, submitted, begun, run.excess, tuple(steps))

    def _left(self, run: RunRecord, shape: Shape, node: PlannedNode, now: float) -> _Left:
        """What a node still has to do."""
        open_ = self._open_calls(run, node)
        if open_ is None:
            return self._expected_of(shape, node)
        records = self._runs.calls
        calls = [
            self._job_call(shape, records[call_id], is_runnable=call_id in open_.runnable)
            for call_id in open_.first(MOST_OF_STEP)
        ]
        ends = max((self._end(records[call_id], now) for call_id in open_.running), default=0.0)
        return _Left(calls, open_.to_start - len(calls), ends, is_runnable=bool(open_.runnable))

    def _open_calls(self, run: RunRecord, node: PlannedNode) -> OpenCalls | None:
        """Calls of a node that are not over; None of a map or loop that has none yet."""
        if node.model is None:
            return run.open_calls.get(node.name)
        own, call = OpenCalls(), self._runs.calls.get(node.key)
        if call is not None and call.run is run:  # else the plan of another run had named it first
            own.put(call.call_id, call.place, call.report.state)
        return own

    def _expected_of(self, shape: Shape, node: PlannedNode) -> _Left:
        """What a map or loop that has not begun is expected to do; nothing of plain code."""
        knowledge = self._views.knowledge
        calls: list[JobCall] = []
        count = 0
        for body, times in knowledge.nodes.expected_bodies(shape.workflow, node.name):
            calls += [job_call(knowledge, shape.workflow, body)] * min(times, MOST_OF_STEP - len(calls))
            count += times
        return _Left(calls, count - len(calls), 0.0, is_runnable=False)

    def _job_call(self, shape: Shape, call: CallRecord, *, is_runnable: bool) -> JobCall:
        call_id = call.call_id if is_runnable else None
        return job_call(self._views.knowledge, shape.workflow, call.node, call_id, self._avoided(call))

    def _more_s(self, one: JobCall, count: int) -> float:
        """How long so many calls like one take, after those that are planned for."""
        call_s = self._views.execution(one.model, one.prompt_tokens, one.output_tokens)[1]
        lanes = sum(any(s.replica.model == one.model for s in states) for states in self._fleet.lanes)
        return count * call_s / max(lanes, 1)

    def _avoided(self, call: CallRecord) -> frozenset[str]:
        """Replicas on which a call failed, as long as there are others for it."""
        replicas = self._fleet.views(call.node.model or "") if call.avoid else ()
        return call.avoid if any(view.replica_id not in call.avoid for view in replicas) else frozenset()

    def _end(self, call: CallRecord, now: float) -> float:
        attempt = call.attempt
        state = self._fleet.get(attempt.replica_id) if attempt is not None else None
        stay = state.running.get((call.call_id, attempt.attempt)) if state is not None and attempt is not None else None
        return _expected(stay.expected_end, now) if stay is not None else now


def _expected(at: float, now: float) -> float:
    """When something is expected that is not there yet; once it is overdue, as much later as it is late already."""
    return at if at > now else now + max(now - at, LEAST_S)


def _join(before: Sequence[tuple[tuple[int, ...], float]]) -> tuple[tuple[int, ...], float]:
    after = tuple(sorted({step for steps, _ in before for step in steps}))
    return after, max((end for _, end in before), default=0.0)
