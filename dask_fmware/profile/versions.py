"""Which of two versions of an engine is the later one.

Engines name their versions as they like (``0.10.1``, ``1.0rc2``, ``b4567``), so there is no form to insist on: numbers
are compared as numbers, and a word that announces a release comes before the release.
"""

from __future__ import annotations

import re
from typing import TypeAlias

__all__ = ["version_order"]

Part: TypeAlias = tuple[int, int, str]
BEFORE = frozenset({"dev", "a", "alpha", "b", "beta", "c", "rc", "pre", "preview"})  # the release
END: Part = (1, 0, "")


def version_order(version: str) -> tuple[tuple[Part, ...], str]:
    """Return what versions are sorted by, the latest last; a total order, as ties are broken by the text.

    >>> sorted(["0.10", "0.9", "0.10rc1", "0.10.post1", "0.10.1"], key=version_order)
    ['0.9', '0.10rc1', '0.10', '0.10.post1', '0.10.1']
    """
    parts = re.findall(r"[0-9]+|[a-z]+", version.lower())
    return (*map(_part, parts), END), version


def _part(text: str) -> Part:
    if text.isdigit():
        return 3, int(text), ""
    return 0 if text in BEFORE else 2, 0, text
