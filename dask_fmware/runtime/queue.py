"""Calls that wait, in the order of a policy. It does not know what they wait for."""

from __future__ import annotations

import heapq
from typing import TypeAlias

__all__ = ["CallQueue", "Ticket"]

Ticket: TypeAlias = tuple[tuple[float, ...], int, str]  # order by policy, arrival, call id


class CallQueue:
    """A heap of tickets from which any call can be taken out; it forgets those it left behind."""

    __slots__ = ("_heap", "_tickets")

    def __init__(self) -> None:
        self._heap: list[Ticket] = []  # with tickets of calls that were taken out, which are skipped
        self._tickets: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._tickets

    def push(self, ticket: Ticket) -> None:
        """Let a call wait that does not wait here."""
        self._tickets[ticket[2]] = ticket
        heapq.heappush(self._heap, ticket)

    def first(self) -> Ticket | None:
        """Return the ticket that is served next."""
        while self._heap:
            ticket = self._heap[0]
            if self._tickets.get(ticket[2]) is ticket:
                return ticket
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Ticket | None:
        """Take out the ticket that is served next."""
        ticket = self.first()
        if ticket is not None:
            heapq.heappop(self._heap)
            del self._tickets[ticket[2]]
        return ticket

    def remove(self, call_id: str) -> bool:
        """Take out a call; False if it does not wait here."""
        if self._tickets.pop(call_id, None) is None:
            return False
        if len(self._heap) > 2 * len(self._tickets) + 8:  # amortised: as many removals as the heap is long
            self._heap = list(self._tickets.values())
            heapq.heapify(self._heap)
        return True
