"""Tables of plain text, as everything of ours prints that has rows."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["in_columns"]


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, its cells two blanks apart and below those of the row above.

    >>> in_columns([("node", "model"), ("rewrite", "small")])
    ['node     model', 'rewrite  small']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
