"""What may watch the machine: recorders, checkers, metrics, demand forecasts.

An observer is told of every event after the machine has taken it in, with what the machine made of it.
It decides nothing and changes nothing, so the machine is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dask_fmware.runtime.actions import Action
from dask_fmware.runtime.events import Event

__all__ = ["Observer"]


class Observer(Protocol):
    """Told of every event, in order."""

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """`event` has been handled at `now` (seconds since the epoch), with these actions."""
        ...
