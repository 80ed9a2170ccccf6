"""Look-ahead: which runs can still be in time together, and what is to start now for it.

The runs under way and those that wait are placed on the lanes in a few orders, and the order with most runs in time
wins; of equal ones the one that answers soonest. It is worked out anew whenever something has happened, so a run
that is left out may come in again, and only what starts now is binding.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from math import inf

from dask_fmware.policy.outlook import Job, JobCall, Lane, Outlook, Plan, Start
from dask_fmware.policy.protocol import ReplicaView
from dask_fmware.policy.schedule import Line, Placed, Task, Times, place_jobs

__all__ = ["LookAhead"]

MOST_JOBS = 12  # that are planned for at once, which bounds what a plan costs
REPAIRS = 4  # runs left out that are tried first once more

Cost = Callable[[JobCall, bool, ReplicaView], tuple[float, float]]
"""Seconds until a call has done what it is for, and until it ends, on a replica."""


class LookAhead:
    """Plans for all lanes, the latest of which it remembers.

    Parameters
    ----------
    cost
        What a call costs on an idle replica.
    """

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._lanes: Sequence[Lane] = ()
        self._lines: list[Line] = []  # what the lanes do by the latest plan
        self._outlook: Outlook | None = None

    def plan(self, outlook: Outlook, now: float) -> Plan | None:
        """Plan for all lanes, or None where there are none."""
        lanes = outlook.lanes(now)
        if not lanes:
            return None
        jobs = outlook.jobs(now, MOST_JOBS)
        tasks = [_tasks(job, lanes, self._cost, now) for job in jobs]
        placed = _best(jobs, tasks, [lane.free_at for lane in lanes], now)
        self._outlook, self._lanes, self._lines = outlook, lanes, _lines([lane.free_at for lane in lanes], now)
        for calls in placed.values():
            for one in calls:
                insort(self._lines[one.lane], (one.start, one.end))
        return _plan(jobs, placed, lanes, now)

    def leaves_room(self, replica_id: str, spent_s: float, now: float) -> bool:
        """Whether runs as they may come are still in time if a replica is given away for so long, starting now."""
        if self._outlook is None or not (expected := self._outlook.expected(now)):
            return False
        lines = [list(line) for line in self._lines]
        for line, lane in zip(lines, self._lanes, strict=True):
            if any(replica.replica_id == replica_id for replica in lane.replicas.values()):
                insort(line, (now, now + spent_s))
        tasks = [_tasks(job, self._lanes, self._cost, now) for job in expected]
        return len(place_jobs(lines, tasks, range(len(tasks)), [False] * len(tasks))) == len(tasks)


def _lines(free_at: Sequence[float], now: float) -> list[Line]:
    return [[(-inf, at)] if at > now else [] for at in free_at]


def _tasks(job: Job, lanes: Sequence[Lane], cost: Cost, now: float) -> tuple[Task, ...]:
    return tuple(
        Task(
            step.after,
            max(step.ready_at, now),
            step.pause_s,
            tuple(_times(call, step.answers, lanes, cost) for call in step.calls),
            step.in_turn,
            step.answers,
            step.due,
        )
        for step in job.steps
    )


def _times(call: JobCall, answers: bool, lanes: Sequence[Lane], cost: Cost) -> Times:
    replicas = [lane.replicas.get(call.model) for lane in lanes]
    return tuple(
        None if replica is None or replica.replica_id in call.avoid else cost(call, answers, replica)
        for replica in replicas
    )


def _best(
    jobs: Sequence[Job], tasks: Sequence[Sequence[Task]], free_at: Sequence[float], now: float
) -> dict[int, list[Placed]]:
    """Place the jobs in several orders: most in time by priority and within their tenants' shares, then of all."""
    count = len(jobs)
    best: tuple[tuple[float, ...], list[int], list[bool], dict[int, list[Placed]]] | None = None
    ranks = [(-job.priority, job.excess > 0.0) for job in jobs]
    levels = sorted(set(ranks))

    def attempt(order: list[int], slow: list[bool]) -> bool:
        nonlocal best
        found = place_jobs(_lines(free_at, now), tasks, order, slow)
        in_time = [float(sum(ranks[i] == level for i in found)) for level in levels]
        done = sum(_done(tasks[i], placed) for i, placed in found.items())
        score = (*in_time, -done)
        if best is None or score > best[0]:
            best = score, order, slow, found
            return True
        return False

    def order_by(key: Callable[[int], float]) -> list[int]:
        return sorted(range(count), key=lambda i: (ranks[i][0], not jobs[i].begun, ranks[i][1], key(i), i))

    work = [_work(job) for job in tasks]
    by_due = order_by(lambda i: jobs[i].deadline)
    newest = order_by(lambda i: jobs[i].deadline if jobs[i].begun else -jobs[i].deadline)
    quick, slow = [False] * count, [True] * count
    attempt(by_due, quick)
    for sign in (1.0, -1.0):  # least work first, most work first: as many in time, and sooner
        attempt(sorted(range(count), key=lambda i: (ranks[i], sign * work[i], i)), quick)
    assert best is not None
    if len(best[3]) == count:
        return best[3]
    attempt(by_due, slow)
    if newest != by_due:
        attempt(newest, quick)
        attempt(newest, slow)
    for i in [i for i in best[1] if i not in best[3]][:REPAIRS]:
        attempt([i, *[other for other in best[1] if other != i]], best[2])
    return best[3]


def _work(tasks: Sequence[Task]) -> float:
    """Seconds that a job takes of idle lanes, at least."""
    return sum(min((t[1] for t in times if t is not None), default=0.0) for task in tasks for times in task.calls)


def _done(tasks: Sequence[Task], placed: Sequence[Placed]) -> float:
    """When a job has done what it is for: its last answer has begun, or, without any, its last call has ended."""
    return max([one.done for one in placed if tasks[one.task].answers] or [one.end for one in placed])


def _plan(jobs: Sequence[Job], placed: dict[int, list[Placed]], lanes: Sequence[Lane], now: float) -> Plan:
    starts: list[Start] = []
    first = [inf] * len(lanes)
    for index, calls in placed.items():
        job = jobs[index]
        for one in calls:
            step = job.steps[one.task]
            call = step.calls[one.call]
            lane = lanes[one.lane]
            if call.call_id is not None and lane.has_room and one.start <= max(now, lane.free_at):
                replica = lane.replicas[call.model]
                why = f"planned with {len(placed)} runs in time, of {len(jobs)}"
                starts.append(Start(call.call_id, replica.replica_id, why, step.due))
            else:
                first[one.lane] = min(first[one.lane], one.start)
    idle = [at for at, lane in zip(first, lanes, strict=True) if lane.has_room and max(now, lane.free_at) < at < inf]
    free_until = {
        replica.replica_id: at for at, lane in zip(first, lanes, strict=True) for replica in lane.replicas.values()
    }
    return Plan(tuple(starts), min(idle, default=None), free_until)
