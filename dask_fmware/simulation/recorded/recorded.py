"""A recorded cluster and its runs as something to simulate, as they were or changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, inf

from dask_fmware.errors import SpecError
from dask_fmware.model.plan import Objective
from dask_fmware.runtime import Action, Event
from dask_fmware.runtime.eventlog import Head
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.recorded.facts import Assigned
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import FleetScenario, Hosting
from dask_fmware.simulation.world import World

__all__ = ["Recorded"]


@dataclass(slots=True)
class Recorded:
    """What a log holds.

    Attributes
    ----------
    head
        How its machine was made.
    fleet
        The cluster, as far as its replicas said: the most of them that were there at once.
    runs
        Those that finished, in order of arrival.
    outcomes
        What came of them when they were recorded.
    left_out
        Runs that did not finish.
    changed
        Replicas that came, went or drained between the first run and the last; in `fleet` they are there all the time.
    assigned
        What was decided, in order.
    """

    head: Head
    fleet: FleetScenario
    runs: list[SampledRun]
    outcomes: list[Outcome]
    left_out: int
    changed: int
    assigned: list[Assigned]

    def world(
        self,
        fleet: FleetScenario,
        policy: str,
        runs: Sequence[SampledRun],
        seed: int,
        watch: Callable[[Event, float, list[Action]], None] | None = None,
    ) -> World:
        """Return a simulation whose machine tries calls as often, and elsewhere, as the recorded one did."""
        head = self.head
        return World(
            fleet, policy, runs, seed, watch,
            hedge_budget=head.hedge_budget, max_attempts=head.max_attempts, unhedged=head.unhedged,
        )  # fmt: skip

    def with_slo(self, slo_s: float) -> list[SampledRun]:
        """Return the runs with another objective: so many seconds to what theirs was of, or to the first token."""
        made = []
        for run in self.runs:
            e2e = run.is_whole
            kept = run.plan.objective.on_miss if run.plan.objective is not None else "finish"
            objective = Objective(ttft_s=None if e2e else slo_s, e2e_s=slo_s if e2e else None, on_miss=kept)
            plan = replace(run.plan, objective=objective)
            made.append(replace(run, plan=plan, deadline=run.arrival + slo_s, ends_by=inf))
        return made

    def with_load(self, factor: float, runs: Sequence[SampledRun] | None = None) -> list[SampledRun]:
        """Return the runs `factor` times as close to one another, each with as much time as it had."""
        return [_moved(run, run.arrival / factor) for run in (self.runs if runs is None else runs)]

    def with_cards(self, more: Mapping[str, int]) -> FleetScenario:
        """Return the cluster with cards added (below 0: taken away); each hosts what those of its type do.

        Raises
        ------
        SpecError
            No card of that type was recorded, or fewer than are to be taken away.
        """
        cards, models = dict(self.fleet.cards), dict(self.fleet.models)
        for accelerator, count in more.items():
            card = cards.get(accelerator)
            if card is None:
                raise SpecError(f"no card '{accelerator}' was recorded (known: {', '.join(cards)})")
            if card.count + count < 0:
                raise SpecError(f"{card.count} cards '{accelerator}' were recorded, {-count} cannot be taken away")
            cards[accelerator] = card.model_copy(update={"count": card.count + count})
            told = [spec.on[accelerator] for spec in models.values() if accelerator in spec.on]
            counts = iter(_scaled(told, card.count, card.count + count))
            for name, spec in models.items():
                if (hosting := spec.on.get(accelerator)) is not None:
                    on = {**spec.on, accelerator: hosting.model_copy(update={"replicas": next(counts)})}
                    models[name] = spec.model_copy(update={"on": on})
        return self.fleet.model_copy(update={"cards": cards, "models": models})


def _scaled(hostings: Sequence[Hosting], cards: int, then: int) -> list[int | None]:
    """Return how many replicas each hosting of a type of card has on another number of cards; None stays as it is.

    As many for each card in all as there were, and each model its part of them, by largest remainder: where models
    shared cards out among themselves, a card more is one replica more and not none, or one of each.
    """
    if not cards:
        return [None if one.replicas is None else then * one.per_card for one in hostings]
    told = {i: one.replicas for i, one in enumerate(hostings) if one.replicas is not None}
    made = {i: count * then // cards for i, count in told.items()}
    total = floor(sum(told.values()) * then / cards + 0.5)
    for i in sorted(told, key=lambda i: -(told[i] * then % cards))[: total - sum(made.values())]:
        made[i] += 1
    return [made.get(i) for i in range(len(hostings))]


def _moved(run: SampledRun, arrival: float) -> SampledRun:
    """Return a run that arrives at another time."""
    later, plan, objective = arrival - run.arrival, run.plan, run.plan.objective
    if objective is not None and objective.finish_by is not None:
        plan = replace(plan, objective=replace(objective, finish_by=objective.finish_by + later))
    return replace(run, arrival=arrival, plan=plan, deadline=run.deadline + later, ends_by=run.ends_by + later)
