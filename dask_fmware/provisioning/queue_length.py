"""Replicas by queue length, as Ray Serve scales them: so many that each has `target_ongoing` calls.

Ongoing calls, running and waiting, are averaged over 30 s; more replicas are started when more were wanted for all of
`upscale_delay_s`, fewer after `downscale_delay_s`; from none to one at once (ray.serve.config.AutoscalingConfig and
its default policy). Which card is not part of it; the cheapest with room is taken, within the bound of the cost.
"""

from __future__ import annotations

from collections import deque
from math import ceil

from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.simple import cheapest_free
from dask_fmware.provisioning.steps import Key, Stock
from dask_fmware.provisioning.views import ModelLoad, Observation
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["QueueLength"]

LOOK_BACK_S = 30.0


class QueueLength:
    """Counts replicas by calls."""

    def __init__(self, options: Provisioning) -> None:
        self._options = options
        self._seen: dict[str, deque[tuple[float, int]]] = {}
        self._since: dict[str, tuple[int, float]] = {}  # model -> (direction, since when)

    def desired(
        self, inventory: Inventory, seen: Observation, stock: Stock, barred: frozenset[Key], now: float
    ) -> tuple[dict[Key, int], dict[str, str]]:
        """Return replicas by kind, and why."""
        desired, reasons = dict(stock.counts), {}
        for model in inventory.models:
            load, bounds = seen.models.get(model, ModelLoad()), self._options.bounds(model)
            ongoing = self._averaged(model, load.held_urgent + load.running_urgent, now)
            have = sum(n for key, n in desired.items() if key[0] == model)
            wanted = max(ceil(ongoing / self._options.target_ongoing), bounds.min_replicas)
            if bounds.max_replicas is not None:
                wanted = min(wanted, bounds.max_replicas)
            if load.held or load.running:  # background work has one replica, as any call has
                wanted = max(wanted, 1)
            reasons[model] = f"{ongoing:.3g} calls, {self._options.target_ongoing:g} for each replica"
            if not self._is_due(model, wanted, have, now):
                continue
            for _ in range(wanted - have):
                if (key := cheapest_free(inventory, model, desired, barred, self._options.max_cost_per_hour)) is None:
                    break
                desired[key] = desired.get(key, 0) + 1
            dearest = [kind.key for kind in reversed(inventory.of(model))]
            for _ in range(have - wanted):
                key = next(key for key in dearest if desired.get(key, 0))
                desired[key] -= 1
        return desired, reasons

    def started(self, model: str) -> None:
        """A replica starts, which was desired: not each of these finds a card and the money for it."""
        self._since.pop(model, None)

    def _averaged(self, model: str, ongoing: int, now: float) -> float:
        values = self._seen.setdefault(model, deque())
        values.append((now, ongoing))
        while values[0][0] < now - LOOK_BACK_S:
            values.popleft()
        return sum(value for _, value in values) / len(values)

    def _is_due(self, model: str, wanted: int, have: int, now: float) -> bool:
        direction = (wanted > have) - (wanted < have)
        known = self._since.get(model)
        if known is None or known[0] != direction:
            known = self._since[model] = (direction, now)
        if direction > 0:
            return have == 0 or now - known[1] >= self._options.upscale_delay_s
        if direction < 0 and now - known[1] >= self._options.downscale_delay_s:
            self._since.pop(model)
            return True
        return False
