"""The order of the router in the words of vLLM, whose priorities are whole numbers."""

from __future__ import annotations

__all__ = ["urgency"]

LARGEST = 2**31


def urgency(priority: float) -> int:
    """Return a priority as vLLM takes it: lower first; ours may be seconds, of which thousandths matter.

    >>> urgency(-0.0125), urgency(1e300)
    (-12, 2147483648)
    """
    return int(min(max(1e3 * priority, -LARGEST), LARGEST))
