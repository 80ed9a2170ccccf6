"""What may watch the machine: recorders, checkers, metrics, demand forecasts.

An observer is told of events after the machine has taken them in, with what the machine made of them.
It decides nothing and changes nothing, so the machine is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from dask_fmware.runtime.actions import Action
from dask_fmware.runtime.events import Event

__all__ = ["Observer", "Observers"]


class Observer(Protocol):
    """Told of events, in order: of all, or of the classes of events in its ``watches`` if it has such a set."""

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """`event` has been handled at `now` (seconds since the epoch), with these actions."""
        ...


class Observers:
    """The observers of a machine, found by the class of an event; they may come and go while they are told.

    Attributes
    ----------
    failed
        Called with an observer that has raised and what it raised; the others are told and the machine goes on. Without
        it the error is the caller's, who loses what the machine made of the event.
    """

    def __init__(self) -> None:
        self.failed: Callable[[Observer, Exception], None] | None = None
        self._all: tuple[Observer, ...] = ()
        self._by_kind: dict[type, tuple[Observer, ...]] = {}

    def __iter__(self) -> Iterator[Observer]:
        return iter(self._all)

    def append(self, observer: Observer) -> None:
        """Tell one more, after the others."""
        self._all, self._by_kind = (*self._all, observer), {}

    def remove(self, observer: Observer) -> None:
        """Tell it no more, if it was told."""
        self._all, self._by_kind = tuple(known for known in self._all if known is not observer), {}

    def tell(self, event: Event, actions: Sequence[Action], now: float) -> None:
        """Tell those who watch such events."""
        for observer in self.of(type(event)):
            try:
                observer.observe(event, actions, now)
            except Exception as error:
                if self.failed is None:
                    raise
                self.failed(observer, error)

    def of(self, kind: type[Event]) -> tuple[Observer, ...]:
        """Return those who watch events of a class."""
        found = self._by_kind.get(kind)
        if found is None:
            found = tuple(known for known in self._all if kind in getattr(known, "watches", (kind,)))
            self._by_kind[kind] = found
        return found
