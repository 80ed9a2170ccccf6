"""What is due when, in virtual time. It owns the clock of a simulation and knows nothing of what it calls."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["Agenda"]


class Agenda:
    """Things to do, least time first; equal times in the order in which they were noted."""

    __slots__ = ("_heap", "is_over", "noted", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.is_over = False  # whether nothing that is still noted matters
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self.noted = 0  # in all, by which equal times are ordered

    def at(self, when: float, do: Callable[..., None], *arguments: object) -> None:
        """Call ``do(*arguments)`` at `when`, which is not in the past."""
        self.noted += 1
        heappush(self._heap, (when, self.noted, do, arguments))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is noted any more."""
        return not self._heap

    def play(self, until: float) -> None:
        """Do what is due, one after the other, until nothing is left, `is_over` or `until`."""
        heap = self._heap
        while heap and not self.is_over and heap[0][0] <= until:
            self.now, _, do, arguments = heappop(heap)
            do(*arguments)
