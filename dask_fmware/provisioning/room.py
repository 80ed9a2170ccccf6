"""What places and what money are left for one more replica."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

from dask_fmware.provisioning.inventory import Inventory

__all__ = ["Room"]

Key: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class Room:
    """Cards, and who is on them.

    Parameters
    ----------
    inventory
        Cards, their places and prices.
    most_per_hour
        Bound of the price of all cards together, in the currency of their prices; None: there is none.
    used
        Replicas that take a place, by kind; one that drains takes and costs it until it has gone.
    """

    inventory: Inventory
    most_per_hour: float | None
    used: Counter[Key] = field(default_factory=Counter)

    def has_place(self, accelerator: str) -> bool:
        """Whether a replica finds a place on one of these cards, whatever that costs."""
        card = self.inventory.cards.get(accelerator)
        return card is not None and sum(n for (_, on), n in self.used.items() if on == accelerator) < card.places

    def holds(self, key: Key) -> bool:
        """Whether one more replica of a kind has a place, and all cards stay within the bound of the cost."""
        return self.has_place(key[1]) and self.inventory.is_within(self.used + Counter([key]), self.most_per_hour)
