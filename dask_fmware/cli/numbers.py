"""Numbers of a command line that are numbers: click takes nan for one within every range, and inf for one of most."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click

__all__ = ["ABOVE_0", "FiniteRange", "Seconds"]


class FiniteRange(click.FloatRange):
    """A `click.FloatRange` without nan and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, if it is one."""
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """``3s``, ``3`` or ``250ms``."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, if it is a positive time."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        unit = 0.001 if text.endswith("ms") else 1.0
        try:
            seconds = float(text.removesuffix("ms").removesuffix("s")) * unit
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < float("inf"):
            self.fail(f"'{value}' is not a positive time, as in 3s or 250ms", param, ctx)
        return seconds


ABOVE_0 = FiniteRange(0, min_open=True)
