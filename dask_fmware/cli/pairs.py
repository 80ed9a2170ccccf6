"""Options of the kind NAME=VALUE that are given several times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import click

__all__ = ["by_name"]

V = TypeVar("V")


def by_name(option: str, pairs: Iterable[tuple[str, V]]) -> dict[str, V]:
    """Return the values by their names.

    Raises
    ------
    click.BadParameter
        A name is given twice: whether the sum is meant, or the last, nobody can tell.
    """
    found: dict[str, V] = {}
    for name, value in pairs:
        if name in found:
            raise click.BadParameter(
                f"'{name}' is given twice, as {found[name]} and as {value}; give it once", param_hint=option
            )
        found[name] = value
    return found
