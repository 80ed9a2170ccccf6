"""Where attempts are: the replicas by what they said, and which attempts hold their slots by what was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from dask_fmware.model.replica import Replica
from dask_fmware.runtime.eventlog import Decision
from dask_fmware.runtime.replicas.slots import AttemptKey

__all__ = ["Place", "Places"]


@dataclass(slots=True)
class Place:
    """One replica."""

    replica: Replica
    drains: bool = False
    running: dict[AttemptKey, None] = field(default_factory=dict)
    ahead: int = 0  # of the running, those that have not begun

    @property
    def begun(self) -> int:
        """Attempts that have had a slot."""
        return len(self.running) - self.ahead


class Places:
    """All replicas, and who is where.

    Parameters
    ----------
    broken
        Told of each assignment to a place that could not take it.
    """

    def __init__(self, broken: Callable[[str], None]) -> None:
        self._broken = broken
        self._places: dict[str, Place] = {}
        self._slots: dict[AttemptKey, Place] = {}
        self._ahead: dict[str, dict[AttemptKey, Place]] = {}  # card -> attempts that have not begun, in order

    # -- replicas --------------------------------------------------------------------------------

    def ready(self, replica: Replica, draining: bool) -> list[tuple[AttemptKey, bool]] | None:
        """A replica says that it is there; return what `gone` does if it has started again, else None."""
        known = self._places.get(replica.replica_id)
        if known is not None and known.replica.serves_on_as(replica):
            known.replica = replica  # it was profiled meanwhile, and serves on
            return None
        lost = self.gone(replica.replica_id)
        self._places[replica.replica_id] = Place(replica, draining)
        return lost

    def gone(self, replica_id: str) -> list[tuple[AttemptKey, bool]] | None:
        """A replica is lost: return the attempts on it, each with whether it had a slot; None if it was not there."""
        place = self._places.pop(replica_id, None)
        if place is None:
            return None
        card = place.replica.card
        lost = [(key, key not in self._ahead.get(card, ())) for key in place.running]
        for key in place.running:
            del self._slots[key]
            self._ahead.get(card, {}).pop(key, None)
        self._begin(card)
        return lost

    def drain(self, replica_id: str, draining: bool) -> None:
        """A replica takes no calls, or takes some again."""
        if (place := self._places.get(replica_id)) is not None:
            place.drains = draining

    # -- attempts --------------------------------------------------------------------------------

    def take(self, made: Decision, what: str, model: str | None) -> None:
        """An attempt is assigned, of a call for a model that is known or not; `what` names it in a breach."""
        place = self._places.get(made.replica_id)
        if place is None:
            self._broken(f"{what} was assigned to '{made.replica_id}', which is not there")
            return
        replica = place.replica
        if model is not None and model != replica.model:
            self._broken(f"{what} for model '{model}' was assigned to one of '{replica.model}'")
        if place.drains:
            self._broken(f"{what} was assigned to '{made.replica_id}', which takes no calls")
        each = 2 if made.wait_s > 0 else 1  # attempts for a slot: one runs and one is ahead
        if len(place.running) >= each * replica.slots:
            self._broken(f"{what} was assigned to '{made.replica_id}', whose {replica.slots} slots are taken")
        there, bound = self._card(replica)
        on_card = sum(len(other.running) for other in there)
        if on_card >= each * bound:
            self._broken(f"{what} was assigned to card '{replica.card}', whose {bound:g} slots are taken")
        key = made.of, made.attempt
        if len(place.running) >= replica.slots or on_card >= bound:
            place.ahead += 1
            self._ahead.setdefault(replica.card, {})[key] = place
        place.running[key] = None
        self._slots[key] = place

    def _card(self, replica: Replica) -> tuple[list[Place], float]:
        """Replicas that share the slots of a card with one, and how many these are; none without a bound."""
        if replica.card_slots is None:
            return [], inf
        there = [place for place in self._places.values() if place.replica.card == replica.card]
        return there, min(p.replica.card_slots for p in there if p.replica.card_slots is not None)

    def _begin(self, card: str) -> None:
        """Let attempts begin that have not, as far as slots are free by now."""
        for key, place in list(self._ahead.get(card, {}).items()):
            there, bound = self._card(place.replica)
            if place.begun < place.replica.slots and sum(other.begun for other in there) < bound:
                place.ahead -= 1
                del self._ahead[card][key]
        if not self._ahead.get(card, True):
            del self._ahead[card]

    def free(self, key: AttemptKey) -> bool:
        """An attempt has ended; False if that was said before, or its replica was lost."""
        place = self._slots.pop(key, None)
        if place is None:
            return False
        del place.running[key]
        card = place.replica.card
        if self._ahead.get(card, {}).pop(key, None) is not None:
            place.ahead -= 1
        self._begin(card)
        return True

    def of(self, key: AttemptKey) -> Place | None:
        """Return the place of an attempt that runs."""
        return self._slots.get(key)

    def __iter__(self) -> Iterator[tuple[str, AttemptKey]]:
        """Ids of replicas with the attempts that hold a slot there."""
        for replica_id, place in self._places.items():
            for key in sorted(place.running):
                yield replica_id, key

    # -- room ------------------------------------------------------------------------------------

    def has_room_beside(self, place: Place) -> bool:
        """Whether another replica of the same model can take an attempt, ahead of a slot at least."""
        model = place.replica.model
        others = [p for p in self._places.values() if p is not place and p.replica.model == model and not p.drains]
        return any(len(p.running) < 2 * p.replica.slots for p in others)

    def idle(self) -> dict[str, str]:
        """Models with a replica that takes calls while no card of theirs runs anything -> id of such a replica."""
        busy = {place.replica.card for place in self._places.values() if place.running}
        moving = {place.replica.model for place in self._places.values() if place.replica.card in busy}
        return {
            place.replica.model: replica_id
            for replica_id, place in self._places.items()
            if not place.drains and place.replica.model not in moving
        }
