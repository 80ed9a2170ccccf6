"""What is due when, in virtual time. It owns the clock of a simulation and knows nothing of what it calls."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["Agenda"]

ROUNDING_S = 1e-6  # by which a time that was worked out may lie before what it is about


class Agenda:
    """Things to do, least time first; equal times in the order in which they were noted."""

    __slots__ = ("_heap", "is_over", "noted", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.is_over = False  # whether nothing that is still noted matters
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self.noted = 0  # in all, by which equal times are ordered

    def at(self, when: float, do: Callable[..., None], *arguments: object) -> None:
        """Call ``do(*arguments)`` at `when`.

        Raises
        ------
        ValueError
            That is past, by more than the last bit of a sum.
        """
        if when < self.now:
            if when < self.now - ROUNDING_S:
                raise ValueError(f"it is {self.now} s, nothing can be noted for {when} s")
            when = self.now
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
