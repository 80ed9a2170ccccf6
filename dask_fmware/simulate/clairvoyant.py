"""How many runs could have been in time, had all been known: a feasible schedule for serial cards, found by search.

Runs are placed one after the other into the gaps of the cards' timelines, each call where it ends first (the
answer also on the slowest card that is in time); a run that would be late is left out and served after all others.
The order of placing, and which runs take the slow card for their answer, is improved by seeded local search. Every
schedule it looks at is feasible, so the count is one that some policy could have reached; it is no upper bound.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from dask_fmware.errors import SpecError
from dask_fmware.simulate.scenario import Scenario
from dask_fmware.simulate.workload import SampledRun, alone_s

__all__ = ["Clairvoyant", "most_in_time"]

Stay = tuple[float, float]  # start and end of a call on a card


@dataclass(frozen=True, slots=True)
class _Step:
    """One node of a run: its calls, each with first token and completion on every card."""

    after: tuple[int, ...]
    seconds: float
    calls: tuple[tuple[tuple[float, float], ...], ...]
    in_turn: bool
    answers: bool


def _steps(scenario: Scenario, run: SampledRun, cards: Sequence[str]) -> tuple[_Step, ...]:
    made = []
    for node in run.nodes:
        calls = []
        for call in node.calls if node.taken and node.model is not None else ():
            hostings = [scenario.models[node.model or ""].on[card] for card in cards]
            calls.append(tuple(alone_s(hosting.step_law, hosting.limits, (call,)) for hosting in hostings))
        made.append(_Step(node.after, node.seconds if node.taken else 0.0, tuple(calls), node.in_turn, node.answers))
    return tuple(made)


def _gap(stays: Sequence[Stay], ready: float, length: float) -> float:
    """Earliest start on a card that runs one call at a time."""
    start = ready
    for begin, end in stays:
        if end <= start:
            continue
        if begin >= start + length - 1e-12:
            break
        start = end
    return start


class Clairvoyant:
    """Schedules for one set of runs.

    Parameters
    ----------
    scenario
        Its cards have one slot each, and every model on every card.
    runs
        What arrives.
    """

    def __init__(self, scenario: Scenario, runs: Sequence[SampledRun]) -> None:
        if any(card.slots != 1 for card in scenario.cards.values()):
            raise SpecError("a clairvoyant schedule is searched for serial cards only (slots: 1)")
        self._cards = [name for name, card in scenario.cards.items() for _ in range(card.count)]
        self._runs = list(runs)
        self._steps = [_steps(scenario, run, self._cards) for run in runs]

    def place(self, order: Sequence[int], slow: Sequence[bool]) -> list[int]:
        """Place runs in an order and return those that are in time."""
        lines: list[list[Stay]] = [[] for _ in self._cards]
        met = []
        for index in order:
            stays = self._place_run(lines, index, slow[index])
            if stays is not None:
                met.append(index)
                for card, stay in stays:
                    insort(lines[card], stay)
        return met

    def _place_run(self, lines: list[list[Stay]], index: int, slow: bool) -> list[tuple[int, Stay]] | None:
        run = self._runs[index]
        mine: list[tuple[int, Stay]] = []
        done: list[float] = []
        for step in self._steps[index]:
            ready = max((done[i] for i in step.after), default=run.arrival)
            end = ready + step.seconds
            for times in step.calls:
                best: tuple[float, int, float, float] | None = None
                for card, (first_s, whole_s) in enumerate(times):
                    line = sorted([*lines[card], *[stay for c, stay in mine if c == card]]) if mine else lines[card]
                    start = _gap(line, ready, whole_s)
                    due = start + first_s if step.answers else start + whole_s
                    if due > run.deadline + 1e-9:
                        continue
                    key = -whole_s if step.answers and slow else due
                    if best is None or (key, card) < best[:2]:
                        best = key, card, start, whole_s
                if best is None:
                    return None
                _, card, start, whole_s = best
                mine.append((card, (start, start + whole_s)))
                end = max(end, start + whole_s)
                if step.in_turn:
                    ready = start + whole_s
            done.append(end)
        return mine

    def search(self, tries: int = 200, seed: int = 0) -> int:
        """Return the most runs in time of all schedules looked at."""
        runs, count = self._runs, len(self._runs)
        work = [sum(min(t[1] for t in call) for step in steps for call in step.calls) for steps in self._steps]
        orders = [
            sorted(range(count), key=lambda i: runs[i].deadline),
            sorted(range(count), key=lambda i: (work[i], i)),
            sorted(range(count), key=lambda i: runs[i].deadline + work[i]),
        ]
        draw = random.Random(seed)
        best: tuple[int, list[int], list[bool]] = (-1, [], [])
        for order in orders:
            for slow in ([False] * count, [True] * count):
                found = len(self.place(order, slow))
                if found > best[0]:
                    best = found, order, slow
        for _ in range(tries):
            if best[0] == count:
                break
            order, slow = list(best[1]), list(best[2])
            for _ in range(draw.randint(1, 3)):
                order.insert(draw.randrange(count), order.pop(draw.randrange(count)))
                if draw.random() < 0.5:
                    flip = draw.randrange(count)
                    slow[flip] = not slow[flip]
            found = len(self.place(order, slow))
            if found >= best[0]:
                best = found, order, slow
        return best[0]


def most_in_time(scenario: Scenario, runs: Sequence[SampledRun], known: int = 0, tries: int = 200) -> int:
    """Return how many runs a feasible schedule has in time: the best found, and never less than `known`."""
    if not any(run.deadline < inf for run in runs):
        return len(runs)
    return max(known, Clairvoyant(scenario, runs).search(tries))
