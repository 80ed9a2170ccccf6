"""How many runs no schedule whatever has in time: a linear relaxation of scheduling on serial cards.

Each call may be cut into pieces that run on any card in any order within its window: not before its run has arrived and
the calls before it are done on the fastest cards, not after the deadline less what must follow. What is left of the
problem is that cards have only so much time in each interval between two window ends, that a call is on one card at a
time, and that the rest of an answer stays on the card of its first token. Every schedule is a point of this polytope,
so its best value, rounded down, bounds the count. With `nodes` above 0 a run is in time wholly or not at all, and as
many nodes of a branch and bound tighten the bound.

Source: time-indexed relaxations of machine scheduling, e.g. Sousa and Wolsey (1992); solved by HiGHS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, inf

import numpy as np

from dask_fmware.errors import SpecError
from dask_fmware.policy.schedule import Task
from dask_fmware.simulation.clairvoyant import true_tasks
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario

__all__ = ["most_possible"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a call that may be cut further."""

    run: int
    begin: float
    end: float
    seconds: tuple[float | None, ...]  # on each card
    with_: int | None = None  # piece that is on the same card


def _pieces(run: int, tasks: Sequence[Task]) -> Iterator[_Piece]:
    """The calls of a run with their windows; the number of the first piece is 0."""

    def least(task: Task, whole: bool) -> float:
        times = [min(t[1] if whole else t[0] for t in call if t is not None) for call in task.calls]
        return (sum(times) if task.in_turn else max(times, default=0.0)) if times else 0.0

    done: list[float] = []
    for task in tasks:
        start = max([task.ready, *[done[i] + task.before_s for i in task.after]])
        done.append(start + least(task, True) + task.after_s)
    after = [0.0] * len(tasks)
    for number in range(len(tasks) - 1, -1, -1):
        task = tasks[number]
        if task.due == inf:
            continue  # nobody waits for it
        following = 0.0 if task.answers else after[number]
        for i in task.after:
            after[i] = max(after[i], task.before_s + least(task, not task.answers) + task.after_s + following)
    count = 0
    for number, task in enumerate(tasks):
        if task.due == inf:
            continue
        start = max([task.ready, *[done[i] + task.before_s for i in task.after]])
        for times in task.calls:
            if not task.answers:
                yield _Piece(run, start, task.due - task.after_s - after[number], tuple(t and t[1] for t in times))
                count += 1
                continue
            yield _Piece(run, start, task.due, tuple(t and t[0] for t in times))
            rest = tuple(None if t is None else t[1] - t[0] for t in times)
            yield _Piece(run, start, task.due + max(r for r in rest if r is not None), rest, count)
            count += 2


def most_possible(scenario: Scenario, runs: Sequence[SampledRun], nodes: int = 0) -> int:
    """Return a number of runs in time that no schedule exceeds.

    Parameters
    ----------
    scenario
        Its cards have one slot each.
    runs
        What arrives.
    nodes
        Of the branch and bound; 0 solves the linear relaxation only.

    Raises
    ------
    SpecError
        If a card runs more than one call at a time, or scipy is not installed.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError as error:
        raise SpecError("the upper bound needs scipy: pip install 'dask-fmware[profile]'") from error
    free = sum(run.deadline == inf for run in runs)
    bound = [i for i, run in enumerate(runs) if run.deadline < inf]
    tasks = true_tasks(scenario, runs)
    pieces: list[_Piece] = []
    for run in bound:
        first = len(pieces)
        for piece in _pieces(run, tasks[run]):
            same = None if piece.with_ is None else first + piece.with_
            pieces.append(_Piece(piece.run, piece.begin, piece.end, piece.seconds, same))
    times = sorted({t for piece in pieces for t in (piece.begin, piece.end)})
    intervals = list(pairwise(times))
    column_of_run = {run: number for number, run in enumerate(bound)}
    columns = len(bound)
    rows: list[tuple[int, int, float]] = []
    lows: list[float] = []
    highs: list[float] = []

    def row(low: float, high: float, entries: Sequence[tuple[int, float]]) -> None:
        rows.extend((len(lows), column, value) for column, value in entries)
        lows.append(low)
        highs.append(high)

    taken: dict[tuple[int, int], list[tuple[int, float]]] = {}  # card, interval -> seconds
    on_card: list[dict[int, list[tuple[int, float]]]] = []
    for piece in pieces:
        parts: dict[int, list[tuple[int, float]]] = {}
        in_interval: dict[int, list[tuple[int, float]]] = {}
        for number, (begin, end) in enumerate(intervals):
            if begin < piece.begin - 1e-12 or end > piece.end + 1e-12:
                continue
            for card, seconds in enumerate(piece.seconds):
                if seconds is None:
                    continue
                parts.setdefault(card, []).append((columns, 1.0))
                taken.setdefault((card, number), []).append((columns, seconds))
                in_interval.setdefault(number, []).append((columns, seconds))
                columns += 1
        of_run = column_of_run[piece.run]
        row(0.0, 0.0, [*[entry for each in parts.values() for entry in each], (of_run, -1.0)])
        for number, entries in in_interval.items():
            row(-inf, 0.0, [*entries, (of_run, intervals[number][0] - intervals[number][1])])
        if piece.with_ is not None:
            for card, entries in parts.items():
                before = on_card[piece.with_].get(card, [])
                row(0.0, 0.0, [*entries, *[(column, -1.0) for column, _ in before]])
        on_card.append(parts)
    for (_, number), entries in taken.items():
        row(-inf, intervals[number][1] - intervals[number][0], entries)
    if not pieces:
        return len(runs)
    at = np.array([(i, j) for i, j, _ in rows], np.int32).T  # up to SciPy 1.14 the solver takes no other
    matrix = csr_array(([value for _, _, value in rows], tuple(at)), shape=(len(lows), columns))
    solved = milp(
        [-1.0] * len(bound) + [0.0] * (columns - len(bound)),
        constraints=LinearConstraint(matrix, lows, highs),
        bounds=Bounds(0.0, [1.0] * len(bound) + [inf] * (columns - len(bound))),
        integrality=[int(nodes > 0)] * len(bound) + [0] * (columns - len(bound)),
        options={"node_limit": nodes} if nodes else {},
    )
    value = solved.mip_dual_bound if nodes else solved.fun
    return len(runs) if value is None else free + min(len(bound), floor(-value + 1e-6))
