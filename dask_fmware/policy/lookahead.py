"""Look-ahead: which runs can still be in time together, and what is to start now for it.

The runs under way and those that wait are placed on the lanes in a few orders, and the order with most runs in time
wins; of equal ones the one that ends them earliest. It is worked out anew whenever something has happened, so a run
that is left out may come in again, and only what starts now is binding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from dask_fmware.policy.outlook import Job, JobCall, Lane, Outlook, Plan, Start
from dask_fmware.policy.protocol import ReplicaView
from dask_fmware.policy.schedule import Placed, Task, Times, place_jobs

__all__ = ["look_ahead"]

MOST_JOBS = 12  # that are planned for at once, which bounds what a plan costs
REPAIRS = 4  # runs left out that are tried first once more

Cost = Callable[[JobCall, bool, ReplicaView], tuple[float, float]]
"""Seconds until a call has done what it is for, and until it ends, on a replica."""


def look_ahead(outlook: Outlook, cost: Cost, now: float) -> Plan | None:
    """Plan for all lanes, or None where there are none."""
    lanes = outlook.lanes(now)
    if not lanes:
        return None
    jobs = outlook.jobs(now, MOST_JOBS)
    tasks = [_tasks(job, lanes, cost, now) for job in jobs]
    placed = _best(jobs, tasks, [lane.free_at for lane in lanes], now)
    return _plan(jobs, placed, lanes, now)


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
    return tuple(None if replica is None else cost(call, answers, replica) for replica in replicas)


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
        found = place_jobs([[(-inf, at)] if at > now else [] for at in free_at], tasks, order, slow)
        in_time = [float(sum(ranks[i] == level for i in found)) for level in levels]
        ends = sum(max((one.end for one in placed), default=now) for placed in found.values())
        score = (*in_time, -ends)
        if best is None or score > best[0]:
            best = score, order, slow, found
            return True
        return False

    def order_by(key: Callable[[Job], float]) -> list[int]:
        return sorted(range(count), key=lambda i: (ranks[i][0], not jobs[i].begun, ranks[i][1], key(jobs[i]), i))

    by_due = order_by(lambda job: job.deadline)
    newest = order_by(lambda job: job.deadline if job.begun else -job.deadline)
    quick, slow = [False] * count, [True] * count
    for order in (by_due, newest) if newest != by_due else (by_due,):
        attempt(order, quick)
        if best is not None and len(best[3]) == count:
            return best[3]
        attempt(order, slow)
    assert best is not None
    for i in [i for i in best[1] if i not in best[3]][:REPAIRS]:
        attempt([i, *[other for other in best[1] if other != i]], best[2])
    return best[3]


def _plan(jobs: Sequence[Job], placed: dict[int, list[Placed]], lanes: Sequence[Lane], now: float) -> Plan:
    starts: list[Start] = []
    first = [inf] * len(lanes)
    for index, calls in placed.items():
        job = jobs[index]
        for one in calls:
            step = job.steps[one.task]
            call = step.calls[one.call]
            if one.start <= now and call.call_id is not None and lanes[one.lane].free_at <= now:
                replica = lanes[one.lane].replicas[call.model]
                why = f"planned with {len(placed)} runs in time, of {len(jobs)}"
                starts.append(Start(call.call_id, replica.replica_id, why, step.due))
            else:
                first[one.lane] = min(first[one.lane], one.start)
    idle = [at for at, lane in zip(first, lanes, strict=True) if now < at < inf and lane.free_at <= now]
    free_until = {
        replica.replica_id: at for at, lane in zip(first, lanes, strict=True) for replica in lane.replicas.values()
    }
    return Plan(tuple(starts), min(idle, default=None), free_until)
