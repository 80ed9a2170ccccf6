"""Runs of which there is always the same number under way: a batch job, or a cluster that is never idle."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from math import inf

from dask_fmware.policy.protocol import Policy
from dask_fmware.simulation.arrivals import Arrival, trace
from dask_fmware.simulation.course import Live
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario, TraceArrivals
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

__all__ = ["ClosedLoop", "endless", "slots"]


class ClosedLoop(World):
    """A simulation in which the next run of a source is submitted whenever one of them ends.

    Parameters
    ----------
    source
        The runs, without end; when they arrive is left out of account.
    under_way
        How many of them there are at any time.
    most_ends
        How many of them end before the simulation does.
    scenario, policy, runs, seed
        As of `World`; `runs` are those that arrive besides.
    """

    def __init__(
        self,
        source: Iterator[SampledRun],
        under_way: int,
        scenario: Scenario,
        policy: str | Policy,
        runs: Iterable[SampledRun] = (),
        seed: int = 0,
        most_ends: float = inf,
    ) -> None:
        super().__init__(scenario, policy, runs, seed)
        self._source = source
        self._under_way = under_way
        self._mine: set[str] = set()  # run ids, under way
        self._ends_left = most_ends
        for _ in range(under_way):
            self._agenda.at(0.0, self._next)

    def _next(self) -> None:
        run = next(self._source)
        late = self.now - run.arrival
        self._mine.add(run.run_id)
        live = self._course.submit(replace(run, arrival=self.now, deadline=run.deadline + late))
        self.outcomes.append(live.outcome)

    def _run_ended(self, live: Live) -> None:
        run_id = live.outcome.run.run_id
        if run_id in self._mine:
            self._mine.discard(run_id)
            self._next()
            self._ends_left -= 1
        super()._run_ended(live)

    @property
    def _is_done(self) -> bool:
        """Whether enough runs have ended; where runs follow one another, some are always under way."""
        return self._ends_left <= 0 or (not self._under_way and super()._is_done)


def endless(scenario: Scenario, seed: int) -> Iterator[SampledRun]:
    """Draw runs without end, workflows in their shares, with the lengths of any rows of a trace if it brings some."""
    workload, mix, drawn = Workload(scenario, seed), random.Random(f"mix {seed}"), random.Random(f"rows {seed}")
    names, shares = list(scenario.workflows), [workflow.share for workflow in scenario.workflows.values()]
    spec = scenario.arrivals
    rows = trace(spec) if isinstance(spec, TraceArrivals) else [Arrival(0.0)]
    for number in count():
        name = names[0] if len(names) == 1 else mix.choices(names, shares)[0]
        yield workload.run(name, f"loop{number}", drawn.choice(rows)._replace(at=0.0))


def slots(scenario: Scenario) -> int:
    """Return how many calls the cluster runs at once."""
    total = 0
    for card, spec in scenario.cards.items():
        hosted = [model.on[card] for model in scenario.models.values() if card in model.on]
        total += spec.count * (spec.slots or sum(hosting.slots * hosting.per_card for hosting in hosted))
    return total
