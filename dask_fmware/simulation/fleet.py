"""The cards and replicas of a simulation: they start, serve, drain, stop and are lost.

It stands for whoever starts workers. Which replicas run is a `Controller`'s business, or else the scenario's alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from math import inf
from typing import Protocol

from dask_fmware.errors import CapacityError, SpecError
from dask_fmware.runtime import Event, Machine, ReplicaDraining, ReplicaGone, ReplicaReady
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.engines import Engines
from dask_fmware.simulation.replicas import Attempt, VirtualCard, VirtualReplica
from dask_fmware.simulation.scenario import Failure, FleetScenario

__all__ = ["Controller", "VirtualFleet"]


class Controller(Protocol):
    """Decides in virtual time which replicas run, as a provisioning policy does on a cluster.

    It is asked at the start and whenever it asked to be. Demand is seen through `machine.observers`.
    """

    def control(self, fleet: VirtualFleet, machine: Machine, now: float) -> float | None:
        """Start, drain and stop replicas of `fleet`; return when to be asked again, or None for never."""
        ...


class VirtualFleet:
    """All cards and replicas of one simulation.

    Parameters
    ----------
    scenario
        Cards and hostings.
    agenda
        The clock.
    engines
        What runs on the replicas.
    tell
        Takes events for the machine.
    lost
        Told of attempts that were lost with their replica, after the machine was told of the loss.
    seed
        Of load times and failed starts.
    """

    def __init__(
        self,
        scenario: FleetScenario,
        agenda: Agenda,
        engines: Engines,
        tell: Callable[[Event], None],
        lost: Callable[[Attempt], None],
        seed: int = 0,
    ) -> None:
        self._scenario = scenario
        self._agenda = agenda
        self._engines = engines
        self._tell = tell
        self._lost = lost
        self._draws = random.Random(f"starts {seed}")
        self._cards: dict[str, VirtualCard] = {}
        self._replicas: dict[str, VirtualReplica] = {}
        self._names: dict[str, int] = {}  # replica name -> how often it was started
        self._paid_s = dict.fromkeys(scenario.cards, 0.0)  # of cards given back
        self.failed_starts: list[tuple[float, str, str]] = []  # when, model, accelerator

    def begin(self) -> None:
        """Start the replicas of the scenario and note its failures."""
        for accelerator, card in self._scenario.cards.items():
            for number in range(card.count):
                self._take_card(accelerator, number)
        for model, card_name in self._scenario.placement():
            self._start(model, self._cards[card_name], is_ready=self._scenario.warm_start)
        self._give_back_empty()
        for failure in self._scenario.failures:
            self._agenda.at(failure.at_s, self._fail, failure)

    # -- what controllers see and do -------------------------------------------------------------

    def __iter__(self) -> Iterator[VirtualReplica]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    def get(self, replica_id: str) -> VirtualReplica | None:
        """Return a replica that starts or serves, or None."""
        return self._replicas.get(replica_id)

    @property
    def cards(self) -> list[VirtualCard]:
        """The cards in use."""
        return list(self._cards.values())

    def cards_left(self, accelerator: str) -> int:
        """Cards of a type that are free to be taken."""
        return self._scenario.cards[accelerator].limit - sum(
            card.accelerator == accelerator for card in self._cards.values()
        )

    def card_seconds(self, accelerator: str) -> float:
        """Seconds for which cards of a type have been paid so far, summed."""
        now = self._agenda.now
        using_s = sum(now - card.since for card in self._cards.values() if card.accelerator == accelerator)
        return self._paid_s[accelerator] + using_s

    def start(self, model: str, accelerator: str, card: str | None = None) -> str:
        """Begin to load a replica, on the first card that is free or on one in use; return its id.

        Raises
        ------
        SpecError
            The scenario has no such hosting, or the card no room for another replica of the model.
        CapacityError
            All cards of the type are in use.
        """
        spec = self._scenario.models.get(model)
        if spec is None or accelerator not in spec.on:
            raise SpecError(f"model '{model}' is not hosted on '{accelerator}' in the scenario; add it under models.on")
        if card is None:
            if self.cards_left(accelerator) <= 0:
                limit = self._scenario.cards[accelerator].limit
                raise CapacityError(
                    f"all {limit} cards of type '{accelerator}' are in use; stop a replica, or raise most"
                )
            free = next(n for n in count() if f"{accelerator}-{n}" not in self._cards)
            on = self._take_card(accelerator, free)
        else:
            found = self._cards.get(card)
            if found is None or found.accelerator != accelerator:
                raise SpecError(f"no card '{card}' of type '{accelerator}' is in use; leave card out to take another")
            if sum(replica.model == model for replica in found.replicas) >= spec.on[accelerator].per_card:
                raise SpecError(
                    f"card '{card}' takes no further replica of model '{model}'; leave card out to take another"
                )
            on = found
        return self._start(model, on).replica_id

    def drain(self, replica_id: str, draining: bool = True) -> None:
        """Let a replica take no new calls, or let it take calls again."""
        replica = self._replicas[replica_id]
        if replica.state in ("ready", "draining"):
            replica.state, replica.since = "draining" if draining else "ready", self._agenda.now
            self._tell(ReplicaDraining(replica_id, draining))

    def stop(self, replica_id: str, reason: str = "it was stopped") -> None:
        """End a replica now; what runs on it is lost, and its card is given back if nothing else is on it."""
        self._remove(self._replicas[replica_id], reason)
        self._give_back_empty()

    def slow_down(self, card: str, factor: float) -> None:
        """Let the steps of a card take `factor` times as long as they should; 1 is as they should."""
        self._engines.slow_down(self._cards[card], factor)

    # -- starts and ends -------------------------------------------------------------------------

    def _take_card(self, accelerator: str, number: int) -> VirtualCard:
        name = f"{accelerator}-{number}"
        card = self._cards[name] = VirtualCard(name, accelerator, self._agenda.now)
        return card

    def _start(self, model: str, card: VirtualCard, *, is_ready: bool = False, after_s: float = 0.0) -> VirtualReplica:
        names = {one.replica.name for one in card.replicas}
        places = (self._scenario.replica(model, card.accelerator, card.name, place) for place in count())
        replica = next(one for one in places if one.name not in names)
        hosting = self._scenario.models[model].on[card.accelerator]
        times = self._names[replica.name] = self._names.get(replica.name, 0) + 1
        if times > 1:  # a replica that was started again is another one, of the same name
            replica = replace(replica, replica_id=f"{replica.name}+{times - 1}")
        made = VirtualReplica(replica, hosting, card, self._agenda.now)
        card.replicas.append(made)
        self._replicas[made.replica_id] = made
        load_s = 0.0 if is_ready else after_s + hosting.load_s.draw(self._draws)
        fails = not is_ready and hosting.failed_starts > 0 and self._draws.random() < hosting.failed_starts
        if load_s > 0.0 or fails:
            self._agenda.at(self._agenda.now + load_s, self._loaded, made, fails)
        else:
            self._loaded(made, fails=False)
        return made

    def _loaded(self, replica: VirtualReplica, fails: bool) -> None:
        if replica.state != "starting":
            return  # stopped meanwhile
        if fails:
            self.failed_starts.append((self._agenda.now, replica.model, replica.accelerator))
            self.stop(replica.replica_id, "its engine could not start")
            return
        replica.state, replica.since = "ready", self._agenda.now
        self._tell(ReplicaReady(replica.replica))

    def _remove(self, replica: VirtualReplica, reason: str) -> None:
        was, replica.state = replica.state, "gone"
        replica.wakes_at = inf
        replica.card.replicas.remove(replica)
        del self._replicas[replica.replica_id]
        self._engines.set_speeds(replica.card)
        lost, replica.attempts = list(replica.attempts), {}
        if was != "starting":
            self._tell(ReplicaGone(replica.replica_id, reason))
        for attempt in lost:
            self._lost(attempt)

    def _give_back_empty(self) -> None:
        for name in [name for name, card in self._cards.items() if not card.replicas]:
            card = self._cards.pop(name)
            self._paid_s[card.accelerator] += self._agenda.now - card.since

    # -- failures --------------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> None:
        card = self._cards.get(failure.card)
        if card is None:
            return  # not in use at the time
        now = self._agenda.now
        if failure.slow is not None:
            card.slowed_by.append(failure)
            self.slow_down(card.name, failure.slow)
            if failure.down_s is not None:
                self._agenda.at(now + failure.down_s, self._recover, card, failure)
            return
        models = [replica.model for replica in card.replicas]
        for replica in list(card.replicas):
            self._remove(replica, "its card was lost")
        if failure.down_s is None:
            self._give_back_empty()
            return
        card.back_at = max(card.back_at, now + failure.down_s)
        for model in models:
            self._start(model, card, after_s=card.back_at - now)

    def _recover(self, card: VirtualCard, failure: Failure) -> None:
        card.slowed_by.remove(failure)
        if self._cards.get(card.name) is card:  # else it was given back, and another may have its number
            self.slow_down(card.name, (card.slowed_by[-1].slow or 1.0) if card.slowed_by else 1.0)
