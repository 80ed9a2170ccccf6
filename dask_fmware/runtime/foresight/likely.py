"""Runs as they may come: like those that ended last, on the paths that they took, at the rate of late.

Whether a card can be given to what is not urgent depends on who comes next. Nobody knows, so the near future is taken
to be the recent past. A policy that plans places these runs beside those that are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

from dask_fmware.model.plan import PlannedNode
from dask_fmware.policy.outlook import Job, JobCall, JobStep
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.learning.knowledge import Knowledge
from dask_fmware.runtime.runs.records import RunRecord

__all__ = ["MOST_OF_STEP", "Likely", "job_call"]

REMEMBERED = 8  # runs that ended last, and gaps between arrivals
ENOUGH = 2  # of them, to tell what may come
CALM = 3.0  # a pause so many times as long as is usual ends a burst
MOST_OF_STEP = 16  # calls to start that a plan sees of a step, which bounds what it costs: it is made for each event


class Likely:
    """The latest arrivals and what came of them.

    Parameters
    ----------
    views
        What is known of workflows.
    """

    def __init__(self, views: CallViews) -> None:
        self._views = views
        self._submitted: deque[float] = deque(maxlen=REMEMBERED + 1)
        self._ended: deque[Job] = deque(maxlen=REMEMBERED)  # as if submitted at 0

    def submitted(self, at: float) -> None:
        """A run with a deadline has come."""
        if not self._submitted or at > self._submitted[-1]:
            self._submitted.append(at)

    def ended(self, run: RunRecord) -> None:
        """A run with a deadline has finished."""
        self._ended.append(self._anew(run))

    def jobs(self, now: float) -> Sequence[Job]:
        """Return what may come from now on, the first at once; nothing while too few have come to tell."""
        if len(self._ended) < ENOUGH or len(self._submitted) <= ENOUGH:
            return ()
        first, last = self._submitted[0], self._submitted[-1]
        apart_s = max((last - first) / (len(self._submitted) - 1), (now - last) / CALM)
        likely = islice(cycle(self._ended), REMEMBERED)
        return [_later(job, now + number * apart_s) for number, job in enumerate(likely)]

    def _anew(self, run: RunRecord) -> Job:
        """A run as if it were submitted again, at 0."""
        assert run.deadline is not None
        knowledge, shape, plan, decided = self._views.knowledge, self._views.shape(run), run.plan, run.decided
        taken, allowed_s = dict(decided), run.deadline - run.report.submitted
        steps: list[JobStep] = []
        places: dict[str, tuple[int, ...]] = {}  # node -> steps that it waits for
        for node in shape.nodes:
            after = tuple(sorted({step for name in node.after for step in places.get(name, ())}))
            calls: list[JobCall] = []
            if all(taken.get(guard.switch) == guard.branch for guard in node.guards):
                if node.model is not None:
                    calls.append(job_call(knowledge, shape.workflow, node))
                for body, count in knowledge.nodes.expected_bodies(shape.workflow, node.name):
                    calls.extend([job_call(knowledge, shape.workflow, body)] * count)
            if not calls:
                places[node.name] = after
                continue
            pause_s = knowledge.nodes.pause_s(shape.workflow, node.name)
            in_turn = node.model is None and knowledge.nodes.in_turn(shape.workflow, node.name)
            due = allowed_s - (0.0 if node.answers else knowledge.after_s(shape, node.name, decided))
            ready_at = 0.0 if after else pause_s
            steps.append(JobStep(after, ready_at, pause_s, _bundled(calls), in_turn, node.answers, due))
            places[node.name] = (len(steps) - 1,)
        return Job(plan.run_id, plan.tenant, plan.priority, allowed_s, 0.0, False, run.excess, tuple(steps))


def job_call(
    knowledge: Knowledge,
    workflow: str,
    node: PlannedNode,
    call_id: str | None = None,
    avoid: frozenset[str] = frozenset(),
) -> JobCall:
    """Return a call of a node with its expected lengths; without an id it is not runnable yet."""
    return JobCall(call_id, node.model or "", *knowledge.nodes.lengths(workflow, node), avoid)


def _bundled(calls: Sequence[JobCall]) -> tuple[JobCall, ...]:
    """The calls of a step, or as many as a plan sees, each of which stands for some that come one after the other."""
    count = len(calls)
    if count <= MOST_OF_STEP:
        return tuple(calls)
    times = count / MOST_OF_STEP
    return tuple([replace(calls[n * count // MOST_OF_STEP], times=times) for n in range(MOST_OF_STEP)])


def _later(job: Job, at: float) -> Job:
    """A job that is submitted at 0, submitted at another time."""
    steps = tuple(replace(step, ready_at=step.ready_at + at, due=step.due + at) for step in job.steps)
    return replace(job, deadline=job.deadline + at, submitted=at, steps=steps)
