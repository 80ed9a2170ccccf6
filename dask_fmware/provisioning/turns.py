"""Models that take turns on cards that are too few: calls do not wait for good beside an idle replica of another model.

The cheapest mix leaves the cards to whom they are with, however few calls that one has. A model whose calls have no
replica takes over one that has no call, once they have waited for as long as loading takes there and back: then waiting
has cost as much as the change, so that it costs at most twice what was best, whatever comes next (the rule of who rents
skis), and models with few calls do not change places all the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.steps import Key, Stock
from dask_fmware.provisioning.views import ModelLoad
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Look", "Turns"]


@dataclass(frozen=True, slots=True)
class Look:
    """What is there at one moment, in seconds of the planner's clock."""

    inventory: Inventory
    loads: Mapping[str, ModelLoad]
    stock: Stock
    barred: frozenset[Key]  # kinds that do not start now
    settled: Collection[str]  # models of which a replica may go
    now: float


class Turns:
    """Remembers since when models wait, and which are promised whose place."""

    def __init__(self, options: Provisioning) -> None:
        self._options = options
        self._since: dict[str, float] = {}
        self._promised: dict[str, tuple[Key, Key]] = {}  # model that waits -> from which kind to which

    def taken(self, wanted: Mapping[Key, int], look: Look) -> tuple[dict[Key, int], dict[str, str]]:
        """Return the replicas by kind that are wanted with one for each model whose turn it is, and by model, why."""
        desired = dict(wanted)
        served = {model for (model, _), count in look.stock.counts.items() if count}
        waiting = [model for model, load in look.loads.items() if load.held and model not in served]
        self._since = {model: self._since.get(model, look.now) for model in waiting}
        self._promised = {model: pair for model, pair in self._promised.items() if model in self._since}
        reasons: dict[str, str] = {}
        for model in waiting:
            if any(count for (other, _), count in desired.items() if other == model):
                continue
            pair = self._promised.get(model) or self._found(model, desired, look)
            if pair is None or not desired.get(pair[0], 0):
                continue
            self._promised[model] = pair
            desired[pair[0]] -= 1
            desired[pair[1]] = 1
            waited_s = look.now - self._since[model]
            reasons[model] = f"{look.loads[model].held} calls have waited {waited_s:.0f} s for a card"
            reasons[pair[0][0]] = f"no call now; those of '{model}' have waited {waited_s:.0f} s for a card"
        return desired, reasons

    def _found(self, model: str, desired: Mapping[Key, int], look: Look) -> tuple[Key, Key] | None:
        """Whose replica is to go, and what comes there."""
        for kind in look.inventory.of(model):
            for key, count in look.stock.ready.items():
                other, load = key[0], look.loads.get(key[0])
                if not count or key[1] != kind.accelerator or kind.key in look.barred or other not in look.settled:
                    continue
                if load is None or load.held or load.running:
                    continue
                kept = sum(n for (name, _), n in desired.items() if name == other) - 1
                patience_s = min(kind.load_s + look.inventory.kinds[key].load_s, self._options.patience_s())
                if kept >= self._options.bounds(other).min_replicas and look.now - self._since[model] >= patience_s:
                    return key, kind.key
        return None
