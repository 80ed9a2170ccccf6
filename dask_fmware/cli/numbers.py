"""Numbers of a command line that are numbers: click takes nan for one within every range, and inf for one of most."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click

__all__ = ["ABOVE_0", "FiniteRange"]


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` without nan and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, if it is one."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


ABOVE_0 = FiniteRange(0, min_open=True)
