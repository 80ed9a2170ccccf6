"""Calls that wait, in the order of a policy. It does not know what they wait for."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heapify, heappop, heappush
from typing import TypeAlias

__all__ = ["CallQueue", "Cursor", "Ticket"]

Ticket: TypeAlias = tuple[tuple[float, ...], int, str]  # order by policy, arrival, call id
MOST_AHEAD = 32  # tickets kept in order, more than are looked at in one go


class CallQueue:
    """Tickets in order, from which any call can be taken out; it forgets those it left behind.

    The first few are a sorted list, so that looking past some of them moves nothing; the others are a heap.
    """

    __slots__ = ("_ahead", "_heap", "_tickets")

    def __init__(self) -> None:
        self._ahead: list[Ticket] = []  # in order, before all that are in the heap
        self._heap: list[Ticket] = []  # with tickets of calls that were taken out, which are skipped
        self._tickets: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._tickets

    def push(self, ticket: Ticket) -> None:
        """Let a call wait that does not wait here."""
        self._tickets[ticket[2]] = ticket
        ahead = self._ahead
        if ahead and ticket < ahead[-1]:
            insort(ahead, ticket)
            if len(ahead) <= MOST_AHEAD:
                return
            ticket = ahead.pop()
        heappush(self._heap, ticket)

    def at(self, place: int) -> Ticket | None:
        """Return the ticket that is served after `place` others, a few."""
        ahead, heap, tickets = self._ahead, self._heap, self._tickets
        while len(ahead) <= place:
            if not heap:
                return None
            ticket = heappop(heap)
            if tickets.get(ticket[2]) is ticket:
                ahead.append(ticket)
        return ahead[place]

    def first(self) -> Ticket | None:
        """Return the ticket that is served next."""
        return self.at(0)

    def take(self, place: int) -> Ticket | None:
        """Take out the ticket that is served after `place` others."""
        ticket = self.at(place)
        if ticket is not None:
            del self._ahead[place], self._tickets[ticket[2]]
        return ticket

    def pop(self) -> Ticket | None:
        """Take out the ticket that is served next."""
        return self.take(0)

    def remove(self, call_id: str) -> bool:
        """Take out a call; False if it does not wait here."""
        ticket = self._tickets.pop(call_id, None)
        if ticket is None:
            return False
        ahead = self._ahead
        if ahead and ticket <= ahead[-1]:
            del ahead[bisect_left(ahead, ticket)]
        elif len(self._heap) > 2 * len(self._tickets) + 8:  # amortised: as many removals as the heap is long
            self._heap = list(self._tickets.values())
            heapify(self._heap)
            ahead.clear()
        return True


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
