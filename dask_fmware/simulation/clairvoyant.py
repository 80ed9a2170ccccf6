"""How many runs could have been in time, had all been known: a feasible schedule for serial cards, found by search.

Runs are placed one after the other into the gaps of the cards' timelines, each call where it is done first (the
answer also on the slowest card that is in time); a run that would be late is left out and served after all others.
The order of placing, and which runs take the slow card for their answer, is improved by seeded local search. Every
schedule it looks at is feasible, so the count is one that some policy could have reached; `simulation.bound` tells how
many no schedule exceeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from math import inf

from dask_fmware.errors import SpecError
from dask_fmware.policy.schedule import Line, Task, Times, place_jobs
from dask_fmware.simulation.alone import alone_s
from dask_fmware.simulation.sampled import Lengths, SampledNode, SampledRun
from dask_fmware.simulation.scenario import Scenario

__all__ = ["Clairvoyant", "most_in_time", "true_calls", "true_tasks"]


def true_tasks(scenario: Scenario, runs: Sequence[SampledRun]) -> list[tuple[Task, ...]]:
    """The runs as jobs with their true lengths; lanes are the cards in the order of the scenario.

    A step that need not be done in time, as the run is due with an answer that does not wait for it, has no deadline.

    Raises
    ------
    SpecError
        If a card runs more than one call at a time, or the cluster is not the same and at hand all the time.
    """
    if any(card.slots != 1 for card in scenario.cards.values()):
        raise SpecError("a clairvoyant schedule is searched for serial cards only (slots: 1)")
    hostings = [hosting for model in scenario.models.values() for hosting in model.on.values()]
    loads = not scenario.warm_start and any(hosting.load_s.bound or hosting.failed_starts for hosting in hostings)
    if loads or scenario.failures or scenario.delivery_s:
        raise SpecError(
            "a clairvoyant schedule knows no failures, no delivery_s, and load_s only with warm_start: true"
        )
    cards = [f"{name}-{index}" for name, card in scenario.cards.items() for index in range(card.count)]
    hosted = set(scenario.placement())
    return [_tasks(scenario, run, cards, hosted) for run in runs]


def _tasks(scenario: Scenario, run: SampledRun, cards: Sequence[str], hosted: Set[tuple[str, str]]) -> tuple[Task, ...]:
    made = []
    answers = {i for i, node in enumerate(run.nodes) if node.answers and any(true_calls(node))}
    by_end = run.is_whole or not answers
    awaited = _awaited(run, set(range(len(run.nodes))) if by_end else answers)
    for number, node in enumerate(run.nodes):
        calls: list[Times] = []
        for model, lengths in true_calls(node):
            on = scenario.models[model].on
            found = [on[card.rpartition("-")[0]] if (model, card) in hosted else None for card in cards]
            times = [None if h is None else alone_s(h.step_law, h.limits, (lengths,)) for h in found]
            calls.append(tuple((t[1], t[1]) if t is not None and by_end else t for t in times))
        seconds = node.seconds if node.taken else 0.0
        before_s, after_s = (seconds, 0.0) if calls else (0.0, seconds)
        ready = run.arrival if node.after else run.arrival + before_s
        before_s += scenario.hop_s
        due = run.deadline if number in awaited else inf
        in_turn = node.in_turn or any(len(body.nodes) > 1 for body in node.bodies)
        made.append(Task(node.after, ready, before_s, tuple(calls), in_turn, node.answers, due, after_s))
    return tuple(made)


def _awaited(run: SampledRun, ends: Set[int]) -> Set[int]:
    """The nodes that a run is due with, and all that these wait for."""
    found = set(ends)
    for number in range(len(run.nodes) - 1, -1, -1):
        if number in found:
            found.update(run.nodes[number].after)
    return found


def true_calls(node: SampledNode) -> Iterator[tuple[str, Lengths]]:
    """Models and lengths of the calls of a node, those of its bodies included."""
    if not node.taken:
        return
    if node.call is not None and node.model is not None:
        yield node.model, node.call
    for body in node.bodies:
        for inner in body.nodes:
            yield from true_calls(inner)


class Clairvoyant:
    """Schedules for one set of runs.

    Parameters
    ----------
    scenario
        Its cards have one slot each.
    runs
        What arrives.
    """

    def __init__(self, scenario: Scenario, runs: Sequence[SampledRun]) -> None:
        self._runs = list(runs)
        self._tasks = true_tasks(scenario, runs)
        self._lanes = sum(card.count for card in scenario.cards.values())

    def place(self, order: Sequence[int], slow: Sequence[bool]) -> tuple[int, float, list[int]]:
        """Place runs in an order; return how many are in time, minus the sum of their ends, and the others."""
        lines: list[Line] = [[] for _ in range(self._lanes)]
        placed = place_jobs(lines, self._tasks, order, slow)
        ends = sum(calls[-1].end for calls in placed.values() if calls)
        return len(placed), -ends, [i for i in order if i not in placed]

    def search(self, tries: int = 200, seed: int = 0, hints: Sequence[Sequence[int]] = ()) -> int:
        """Return the most runs in time of all schedules looked at.

        Parameters
        ----------
        tries
            Schedules looked at beside the first few.
        seed
            Of the search.
        hints
            Orders to begin with, such as those in which policies served the runs.
        """
        runs, count = self._runs, len(self._runs)
        work = [sum(min(t[1] for t in call if t) for task in tasks for call in task.calls) for tasks in self._tasks]
        orders = [
            *[list(hint) for hint in hints],
            sorted(range(count), key=lambda i: runs[i].deadline),
            sorted(range(count), key=lambda i: (work[i], i)),
            sorted(range(count), key=lambda i: runs[i].deadline + work[i]),
        ]
        draw = random.Random(seed)
        best: tuple[tuple[int, float, list[int]], list[int], list[bool]] = (-1, 0.0, []), [], []
        for order in orders:
            for slow in ([False] * count, [True] * count):
                found = self.place(order, slow)
                if found[:2] > best[0][:2]:
                    best = found, order, slow
        for _ in range(tries):
            left_out = best[0][2]
            if not left_out:
                break
            order, slow = list(best[1]), list(best[2])
            for _ in range(draw.randint(1, 3)):
                moved = order.index(draw.choice(left_out)) if draw.random() < 0.5 else draw.randrange(count)
                order.insert(draw.randrange(count), order.pop(moved))
                if draw.random() < 0.5:
                    flip = draw.randrange(count)
                    slow[flip] = not slow[flip]
            found = self.place(order, slow)
            if found[:2] >= best[0][:2]:
                best = found, order, slow
        return best[0][0]


def most_in_time(
    scenario: Scenario,
    runs: Sequence[SampledRun],
    known: int = 0,
    tries: int = 200,
    hints: Sequence[Sequence[int]] = (),
) -> int:
    """Return how many runs a feasible schedule has in time: the best found, and never less than `known`."""
    if not any(run.deadline < inf for run in runs):
        return len(runs)
    return max(known, Clairvoyant(scenario, runs).search(tries, hints=hints))
