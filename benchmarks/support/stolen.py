"""Time that the host of this virtual machine gave to others: a round that lost some says little of the software."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeVar

__all__ = ["BUSY", "Rounds", "stolen_s"]

T = TypeVar("T")
BUSY = 0.02  # share of all processors' time that may be taken from a round
TRIES = 4  # rounds for each that is wanted
STEAL = 8  # field of the first line of /proc/stat


def stolen_s() -> float:
    """Seconds of all processors that went to others since this machine was started; 0 where nobody counts them."""
    try:
        with open("/proc/stat") as text:
            return int(text.readline().split()[STEAL]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


class Rounds:
    """Rounds of a measurement, of which those count that the machine was ours for.

    Parameters
    ----------
    wanted
        Rounds; up to four times as many are run.

    Examples
    --------
    >>> rounds = Rounds(7)
    >>> rounds.wanted, rounds.kept, rounds.run
    (7, 0, 0)
    """

    def __init__(self, wanted: int) -> None:
        self.wanted, self.kept, self.run = wanted, 0, 0

    async def measure(self, measure: Callable[[], Awaitable[T]]) -> list[T]:
        """Run until as many were quiet as are wanted, and return what these gave."""
        found: list[T] = []
        while self.kept < self.wanted and self.run < TRIES * self.wanted:
            began, before = perf_counter(), stolen_s()
            one = await measure()
            share = (stolen_s() - before) / ((perf_counter() - began) * (os.cpu_count() or 1))
            self.run += 1
            if share <= BUSY:
                self.kept += 1
                found.append(one)
        return found

    def __str__(self) -> str:
        return f"{self.kept} of {self.run} rounds, the others lost more than {BUSY:.0%} of their time to other machines"
