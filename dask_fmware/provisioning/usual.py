"""How long the calls of a node are: means over the longest time of late in which they look alike.

Few calls tell a mean badly, as lengths spread as wide as their mean, and a plan that follows the latest hundred
starts and stops replicas for nothing. So means grow back in time as long as what they would add certainly is alike.
"""

from __future__ import annotations

from collections import deque
from math import sqrt

__all__ = ["UsualLengths"]

PART_S = 20.0
MEMORY_S = 600.0
FEWEST = 100  # calls that are taken together, however old
CERTAIN = 4.0  # standard deviations

Sums = tuple[int, float, float, float, float]  # calls, prompt tokens, their squares, output tokens, their squares
NONE: Sums = (0, 0.0, 0.0, 0.0, 0.0)


class UsualLengths:
    """Prompt and output tokens of the calls of one node.

    Examples
    --------
    >>> usual = UsualLengths()
    >>> for second in range(300):
    ...     usual.observe(float(second), 1000 if second % 2 else 500, 100 if second < 250 else 300)
    >>> usual.means()
    (40, 750.0, 300.0)
    """

    __slots__ = ("_calls", "_known", "_parts")

    def __init__(self) -> None:
        self._parts: deque[tuple[int, Sums]] = deque()  # which part of the time, what ended in it
        self._calls = 0
        self._known: tuple[int, float, float] | None = None

    def observe(self, now: float, prompt_tokens: float, output_tokens: float) -> None:
        """Take note of a call that ended at `now`."""
        part = int(now // PART_S)
        own = 1, prompt_tokens, prompt_tokens**2, output_tokens, output_tokens**2
        self._known = None
        self._calls += 1
        if self._parts and self._parts[-1][0] >= part:
            self._parts[-1] = self._parts[-1][0], _together(self._parts[-1][1], own)
            return
        self._parts.append((part, own))
        while self._parts[0][0] < part - MEMORY_S / PART_S and self._calls - self._parts[0][1][0] >= FEWEST:
            self._calls -= self._parts.popleft()[1][0]

    def means(self) -> tuple[int, float, float]:
        """Calls that are alike, and their mean prompt and output tokens."""
        if self._known is None:
            calls, prompt, _, output, _ = self._alike()
            self._known = calls, prompt / max(calls, 1), output / max(calls, 1)
        return self._known

    def _alike(self) -> Sums:
        found, more = NONE, NONE
        for _, sums in reversed(self._parts):
            more = _together(more, sums)
            if more[0] < min(max(found[0], 1), FEWEST):
                continue
            if found[0] and _differ(found, more):
                return found
            found, more = _together(found, more), NONE
        return _together(found, more)


def _together(one: Sums, other: Sums) -> Sums:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3], one[4] + other[4])


def _differ(one: Sums, other: Sums) -> bool:
    """Whether prompts or outputs certainly have another mean."""
    for at in (1, 3):
        means = one[at] / one[0], other[at] / other[0]
        both = one[0] + other[0]
        spread = max((one[at + 1] + other[at + 1]) / both - ((one[at] + other[at]) / both) ** 2, 0.0)
        if abs(means[0] - means[1]) > CERTAIN * sqrt(spread * (1 / one[0] + 1 / other[0])):
            return True
    return False
