"""How deep data may nest, whatever this Python can read: much more cannot be pickled, and so be sent."""

from __future__ import annotations

from itertools import chain
from typing import Any

__all__ = ["DEEPEST", "is_deep"]

DEEPEST = 200  # lists and objects within one another


def is_deep(document: Any) -> bool:
    """Whether a document of JSON nests deeper than it may.

    >>> is_deep([{"a": []}])
    False
    """
    level: list[Any] = [document]
    for _ in range(DEEPEST + 1):
        level = [held for held in level if isinstance(held, (dict, list))]
        if not level:
            return False
        level = list(chain.from_iterable(held.values() if isinstance(held, dict) else held for held in level))
    return True
