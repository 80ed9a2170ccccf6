"""Calls that wait, in the order of a policy. It does not know what they wait for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from sortedcontainers import SortedList

__all__ = ["CallQueue", "Cursor", "Queues", "Ticket"]

Ticket: TypeAlias = tuple[tuple[float, ...], int, str]  # order by policy, arrival, call id


class CallQueue:
    """Tickets in order, from which any call can be taken out.

    Most come at the end and are served from the front, which costs the same however many wait.
    """

    __slots__ = ("_order", "_tickets")

    def __init__(self) -> None:
        self._order: SortedList[Ticket] = SortedList()
        self._tickets: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._order)

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._tickets

    def push(self, ticket: Ticket) -> None:
        """Let a call wait that does not wait here."""
        self._tickets[ticket[2]] = ticket
        self._order.add(ticket)

    def at(self, place: int) -> Ticket | None:
        """Return the ticket that is served after `place` others."""
        if place >= len(self._tickets):
            return None
        ticket: Ticket = self._order[place]
        return ticket

    def first(self) -> Ticket | None:
        """Return the ticket that is served next."""
        return self.at(0)

    def after(self, order: tuple[float, ...]) -> Ticket | None:
        """Return the first ticket whose order is not less than the beginning of one; None if there is none."""
        return self.at(self._order.bisect_left((order,)))

    def take(self, place: int) -> Ticket | None:
        """Take out the ticket that is served after `place` others."""
        ticket = self.at(place)
        if ticket is not None:
            del self._order[place], self._tickets[ticket[2]]
        return ticket

    def pop(self) -> Ticket | None:
        """Take out the ticket that is served next."""
        return self.take(0)

    def remove(self, call_id: str) -> bool:
        """Take out a call; False if it does not wait here."""
        ticket = self._tickets.pop(call_id, None)
        if ticket is None:
            return False
        self._order.remove(ticket)
        return True


class Queues(dict[str, CallQueue]):
    """The queues of all models of which calls wait, by model; none is empty."""

    __slots__ = ()

    def push(self, model: str, ticket: Ticket) -> None:
        """Let a call wait that does not wait here."""
        queue = self.get(model)
        if queue is None:
            queue = self[model] = CallQueue()
        queue.push(ticket)

    def remove(self, model: str, call_id: str) -> bool:
        """Take out a call; False if it does not wait here."""
        queue = self.get(model)
        if queue is None or not queue.remove(call_id):
            return False
        if not queue:
            del self[model]
        return True

    def forget_empty(self, models: Iterable[str]) -> None:
        """Drop the queues of some models of which the last call was taken through a cursor."""
        for model in models:
            if (queue := self.get(model)) is not None and not queue:
                del self[model]


class Cursor:
    """A place in a queue; the calls before it were looked at and go on waiting."""

    __slots__ = ("_place", "_queue")

    def __init__(self, queue: CallQueue) -> None:
        self._queue = queue
        self._place = 0

    def ticket(self) -> Ticket | None:
        """Return the ticket that is looked at, None at the end."""
        return self._queue.at(self._place)

    def order(self) -> tuple[bool, Ticket | None]:
        """Return a key of cursors by the tickets that are looked at; those at their end come last."""
        ticket = self.ticket()
        return ticket is None, ticket

    def take(self) -> None:
        """Take out the call that is looked at."""
        self._queue.take(self._place)

    def skip(self) -> None:
        """Let the call wait and look at the next."""
        self._place += 1
