"""Starts that failed, and for how long their kind of card is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.views import ReplicaNow
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Failures"]

Key: TypeAlias = tuple[str, str]
HEALED_S = 600.0  # of service without a failure, after which the past is forgotten


class Failures:
    """Remembers failures by kind: each doubles the pause, a success ends it."""

    def __init__(self, options: Provisioning) -> None:
        self._options = options
        self._known: dict[tuple[str, float], None] = {}  # failures that have been counted: (replica, since)
        self._count: dict[Key, int] = {}
        self._until: dict[Key, float] = {}
        self._error: dict[Key, str] = {}
        self._last: dict[Key, float] = {}

    def observe(self, replicas: Sequence[ReplicaNow], now: float) -> None:
        """Take note of replicas that failed, and of those that serve."""
        for replica in replicas:
            key = replica.model, replica.accelerator
            if replica.state == "failed":
                if (replica.name, replica.since) not in self._known:
                    self._known[replica.name, replica.since] = None
                    self._failed(key, replica, now)
            elif replica.has_loaded and key in self._count:
                since = max(replica.since, self._last.get(key, 0.0))
                if now - since > HEALED_S or (replica.since > self._last.get(key, 0.0) and self._count[key] == 1):
                    self._forget(key)
        while len(self._known) > 10_000:
            del self._known[next(iter(self._known))]

    def barred(self, inventory: Inventory, now: float) -> frozenset[Key]:
        """Kinds of which none is started for now."""
        return frozenset(key for key, until in self._until.items() if now < until and key in inventory.kinds)

    def reasons(self, now: float) -> dict[str, str]:
        """By model, what is left alone and why."""
        words: dict[str, list[str]] = {}
        for (model, accelerator), until in self._until.items():
            if now < until:
                count = self._count[model, accelerator]
                error = self._error[model, accelerator]
                words.setdefault(model, []).append(
                    f"{count} starts on {accelerator} failed, next in {until - now:.0f} s: {error}"
                )
        return {model: "; ".join(parts) for model, parts in words.items()}

    def _failed(self, key: Key, replica: ReplicaNow, now: float) -> None:
        count = self._count[key] = self._count.get(key, 0) + 1
        pause_s = min(self._options.retry_s * 2.0 ** (count - 1), self._options.most_retry_s)
        if replica.is_hopeless:
            pause_s = self._options.most_retry_s
        self._until[key], self._error[key], self._last[key] = now + pause_s, replica.error, now

    def _forget(self, key: Key) -> None:
        for table in (self._count, self._until, self._error, self._last):
            table.pop(key, None)
