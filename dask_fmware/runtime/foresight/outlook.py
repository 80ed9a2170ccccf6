"""What is to come: the runs that can still be in time with the calls that they have to start, and the lanes for them.

It reads runs, replicas and knowledge, and keeps the order of deadlines. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sortedcontainers import SortedList

from dask_fmware.model.plan import PlannedNode
from dask_fmware.model.report import CallReport
from dask_fmware.policy.outlook import Job, JobCall, JobStep, Lane
from dask_fmware.runtime.foresight.likely import Likely, job_call
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.learning.knowledge import Shape, base_name
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.runs.records import CallRecord, RunRecord, Runs

__all__ = ["ToCome"]

LEAST_S = 0.001  # what is overdue takes at least so much longer


class ToCome:
    """The outlook of one machine, see `dask_fmware.policy.outlook.Outlook`."""

    def __init__(self, fleet: Fleet, runs: Runs, views: CallViews) -> None:
        self._fleet = fleet
        self._runs = runs
        self._views = views
        self._fresh: SortedList[tuple[float, int, str]] = SortedList()  # deadline, number, run id; have not begun
        self._begun: dict[str, RunRecord] = {}
        self._number: dict[str, tuple[float, int]] = {}
        self._count = 0
        self._likely = Likely(views)

    # -- runs ------------------------------------------------------------------------------------

    def add(self, run: RunRecord) -> None:
        """A call of a run waits."""
        run_id = run.plan.run_id
        if run.deadline is None or run_id in self._begun or run_id in self._number:
            return
        if run.begun:
            self._begun[run_id] = run
            return
        self._likely.submitted(run.report.submitted)
        self._count += 1
        self._number[run_id] = run.deadline, self._count
        self._fresh.add((run.deadline, self._count, run_id))

    def begun(self, run: RunRecord) -> None:
        """The first call of a run has started."""
        if self._forget(run.plan.run_id):
            self._begun[run.plan.run_id] = run

    def ended(self, run: RunRecord) -> None:
        """A run has ended: the next may be like it."""
        self.remove(run)
        if run.deadline is not None and run.report.state == "finished" and self._fleet.lanes:
            self._likely.ended(run)

    def remove(self, run: RunRecord) -> None:
        """A run cannot be in time any more."""
        self._forget(run.plan.run_id)
        self._begun.pop(run.plan.run_id, None)

    def _forget(self, run_id: str) -> bool:
        number = self._number.pop(run_id, None)
        if number is None:
            return False
        self._fresh.remove((*number, run_id))
        return True

    # -- what policies see -----------------------------------------------------------------------

    def lanes(self, now: float) -> Sequence[Lane]:
        """Every lane with when it is free, or nothing where no plan is made."""
        found = []
        for states in self._fleet.lanes:
            stays = [stay for state in states for stay in state.running.values()]
            free_at = max((_expected(one.expected_end, now) for one in stays), default=0.0)
            replicas = {s.replica.model: self._fleet.view(s) for s in states if s.is_open}
            found.append(Lane(free_at, replicas, all(one.is_ending for one in stays)))
        return found

    def jobs(self, now: float, most: int) -> Sequence[Job]:
        """Runs that still have calls to start: those under way, then by deadline."""
        jobs: list[Job] = []
        for run in list(self._begun.values()):
            if len(jobs) < most and (job := self._job(run, now)) is not None:
                jobs.append(job)
        for _, _, run_id in self._fresh:
            if len(jobs) >= most:
                break
            if (fresh := self._runs.get(run_id)) is not None and (job := self._job(fresh, now)) is not None:
                jobs.append(job)
        return jobs

    def expected(self, now: float) -> Sequence[Job]:
        """Runs as they may come from now on."""
        return self._likely.jobs(now)

    # -- jobs ------------------------------------------------------------------------------------

    def _job(self, run: RunRecord, now: float) -> Job | None:
        deadline, plan = run.deadline, run.plan
        if deadline is None:
            return None
        knowledge, shape = self._views.knowledge, self._views.shape(run)
        taken = {switch: branch for (part, switch), branch in run.branches.items() if part == plan.run_id}
        decided = frozenset(taken.items())
        calls: dict[str, list[CallReport]] = {}
        for report in run.report.calls:
            calls.setdefault(base_name(report.node), []).append(report)
        steps: list[JobStep] = []
        places: dict[str, tuple[tuple[int, ...], float]] = {}  # node -> steps that it waits for, end of calls that run
        for node in shape.nodes:
            if any(guard.switch not in taken for guard in node.guards):
                continue  # it may never run
            before = [places[name] for name in node.after if name in places]
            if any(taken[guard.switch] != guard.branch for guard in node.guards):
                places[node.name] = _join(before)
                continue
            if any(name not in places for name in node.after):
                continue  # it waits for one that may never run, or for the value of a switch
            after, end = _join(before)
            open_, ends, is_new = self._open(shape, node, calls.get(node.name, []), now)
            if not open_:
                places[node.name] = after, max(end, ends)
                continue
            pause = knowledge.pause_s(shape.workflow, node.name)
            started = end if end > 0.0 else run.idle_since
            ready = now if not is_new else _expected(started + pause, now) if not after else end + pause
            steps.append(
                JobStep(
                    after=after,
                    ready_at=ready,
                    pause_s=pause,
                    calls=tuple(open_),
                    in_turn=node.model is None and knowledge.in_turn(shape.workflow, node.name),
                    answers=node.answers,
                    due=deadline - (0.0 if node.answers else knowledge.after_s(shape, node.name, decided)),
                )
            )
            places[node.name] = (len(steps) - 1,), max(end, ends)
        if not steps:
            return None
        submitted, begun = run.report.submitted, run.begun
        return Job(plan.run_id, plan.tenant, plan.priority, deadline, submitted, begun, run.excess, tuple(steps))

    def _open(
        self, shape: Shape, node: PlannedNode, reports: Sequence[CallReport], now: float
    ) -> tuple[list[JobCall], float, bool]:
        """Calls of a node that have not started, the end of those that run, and whether none of them is runnable."""
        knowledge = self._views.knowledge
        open_: list[JobCall] = []
        ends, is_new = 0.0, True
        if node.model is None and not reports:
            for body, count in knowledge.expected_bodies(shape.workflow, node.name):
                open_.extend([job_call(knowledge, shape.workflow, body)] * count)
            return open_, ends, is_new
        for report in reports:
            call = self._runs.calls.get(report.call_id)
            if call is None or report.state in ("finished", "failed", "cancelled", "skipped"):
                continue
            if report.state == "running":
                ends = max(ends, self._end(call, now))
                continue
            is_runnable = report.state in ("held", "queued")
            is_new = is_new and not is_runnable
            open_.append(job_call(knowledge, shape.workflow, call.node, call.call_id if is_runnable else None))
        return open_, ends, is_new

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
