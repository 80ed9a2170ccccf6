"""Intervals in tables."""

from __future__ import annotations

from collections.abc import Sized

__all__ = ["within"]


def within(low: float, high: float, form: str, over: int | Sized) -> str:
    """Return an interval over seeds as it stands behind its mean, and nothing of one seed: it has no interval.

    >>> within(0.5, 0.75, "+.2f", [1000, 1001])
    ' (+0.50 to +0.75)'
    >>> within(0.5, 0.5, ".2f", 1)
    ''
    """
    seeds = over if isinstance(over, int) else len(over)
    return f" ({low:{form}} to {high:{form}})" if seeds > 1 else ""
