"""Placing jobs on lanes that run one call at a time, one job after the other into the gaps that are left.

Numbers only. It serves the policy, which knows what is expected, and the schedule with hindsight, which knows what
is true.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["Line", "Placed", "Task", "Times", "gap", "place_job", "place_jobs"]

Times: TypeAlias = tuple[tuple[float, float] | None, ...]
"""For each lane, seconds until a call has done what it is for, and until it ends; None where it cannot run."""

Line: TypeAlias = list[tuple[float, float]]  # start and end of calls on a lane, in order

EPSILON = 1e-9


class Task(NamedTuple):
    """One step of a job."""

    after: tuple[int, ...]  # earlier steps of the job
    ready: float  # not before
    before_s: float  # pause between the steps before it and its calls
    calls: tuple[Times, ...]
    in_turn: bool  # one after the other
    answers: bool
    due: float  # of each of its calls, and of the pause after them
    after_s: float = 0.0  # pause after its last call


class Placed(NamedTuple):
    """Where and when a call runs."""

    task: int
    call: int
    lane: int
    start: float
    done: float  # when it has done what it is for
    end: float


def gap(line: Sequence[tuple[float, float]], ready: float, length: float) -> float:
    """Earliest start of a call of some length on a lane.

    >>> gap([(0.0, 1.0), (2.0, 3.0)], 0.5, 1.0), gap([(0.0, 1.0), (2.0, 3.0)], 0.5, 2.0)
    (1.0, 3.0)
    """
    start = ready
    for begin, end in line:
        if end <= start:
            continue
        if begin >= start + length - 1e-12:
            break
        start = end
    return start


def place_job(lines: Sequence[Line], tasks: Sequence[Task], slow: bool) -> list[Placed] | None:
    """Place one job: each call where it is done first, or None if one cannot be in time. The lines are not changed.

    Parameters
    ----------
    lines
        What the lanes do already.
    tasks
        The steps of the job, in topological order.
    slow
        Place answers on the lane that they take longest on, of those on which they are in time.
    """
    mine: list[Placed] = []
    taken = list(lines)  # with what this job has there: a copy from its first call on
    done: list[float] = []
    for number, task in enumerate(tasks):
        ready = task.ready
        for i in task.after:
            if done[i] + task.before_s > ready:
                ready = done[i] + task.before_s
        end = ready
        for index, times in enumerate(task.calls):
            best: tuple[float, int, float, float, float] | None = None
            for lane, spent in enumerate(times):
                if spent is None:
                    continue
                due_s, whole_s = spent
                start = gap(taken[lane], ready, whole_s)
                if start + due_s > task.due + EPSILON:
                    continue
                key = -whole_s if slow and task.answers else start + due_s
                if best is None or (key, lane) < best[:2]:
                    best = key, lane, start, due_s, whole_s
            if best is None:
                return None
            _, lane, start, due_s, whole_s = best
            mine.append(Placed(number, index, lane, start, start + due_s, start + whole_s))
            if taken[lane] is lines[lane]:
                taken[lane] = list(lines[lane])
            insort(taken[lane], (start, start + whole_s))
            end = max(end, start + whole_s)
            if task.in_turn:
                ready = start + whole_s
        done.append(end + task.after_s)
        if task.after_s and done[-1] > task.due + EPSILON:
            return None
    return mine


def place_jobs(
    lines: Sequence[Line], jobs: Sequence[Sequence[Task]], order: Sequence[int], slow: Sequence[bool]
) -> dict[int, list[Placed]]:
    """Place jobs in an order and return those that are in time; `lines` are changed."""
    found: dict[int, list[Placed]] = {}
    for index in order:
        placed = place_job(lines, jobs[index], slow[index])
        if placed is not None:
            found[index] = placed
            for one in placed:
                insort(lines[one.lane], (one.start, one.end))
    return found
