"""The paper's simple mode: one more replica when slack is exhausted too often, one less after an idle period.

Section 4.3 of the paper names no card; the cheapest with room is taken, within the bound of the cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.room import Room
from dask_fmware.provisioning.steps import Key, Stock
from dask_fmware.provisioning.views import ModelLoad, Observation
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Simple", "cheapest_free"]

FEWEST = 10  # runs that say anything


class Simple:
    """Counts replicas by exhausted slack and idle time."""

    def __init__(self, options: Provisioning) -> None:
        self._options = options
        self._started: dict[str, float] = {}

    def desired(
        self, inventory: Inventory, seen: Observation, stock: Stock, barred: frozenset[Key], now: float
    ) -> tuple[dict[Key, int], dict[str, str]]:
        """Return replicas by kind, and why."""
        desired, reasons, cost_limit = dict(stock.counts), {}, self._options.max_cost_per_hour
        for model in inventory.models:
            load, bounds = seen.models.get(model, ModelLoad()), self._options.bounds(model)
            have = sum(n for key, n in desired.items() if key[0] == model)
            loading = have > sum(n for key, n in stock.ready.items() if key[0] == model)
            asked = load.ended + load.exhausted
            late = (load.missed + load.exhausted) / asked if asked else 0.0
            reasons[model] = f"slack exhausted by {late:.0%} of the runs"
            is_late = asked >= FEWEST and late > self._options.exhausted_share
            cool = now - self._started.get(model, -1e18) >= self._options.cool_down_s
            needs_first = have == 0 and load.held > 0
            if have < bounds.min_replicas or needs_first or (is_late and cool and not loading):
                is_within = bounds.max_replicas is None or have < bounds.max_replicas
                if is_within and (key := cheapest_free(inventory, model, desired, barred, cost_limit)) is not None:
                    desired[key] = desired.get(key, 0) + 1
                continue
            for replica in seen.replicas:
                idle_since = replica.idle_since
                if replica.model != model or not replica.counts or idle_since is None or load.held:
                    continue
                if now - idle_since >= self._options.patience_s() and have > bounds.min_replicas:
                    desired[model, replica.accelerator] -= 1
                    have -= 1
                    reasons[model] = f"idle for {now - idle_since:.0f} s"
        return desired, reasons

    def started(self, model: str, now: float) -> None:
        """A replica starts, which was desired: not each of these finds a card and the money for it."""
        self._started[model] = now


def cheapest_free(
    inventory: Inventory, model: str, desired: Mapping[Key, int], barred: frozenset[Key], most_per_hour: float | None
) -> Key | None:
    """Return the cheapest kind of a model that has a card left and stays within the cost of all, or None."""
    room = Room(inventory, most_per_hour, Counter(desired))
    return next((kind.key for kind in inventory.of(model) if kind.key not in barred and room.holds(kind.key)), None)
