"""Distributions of token counts and seconds, as scenarios write them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from math import exp, inf, log
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from dask_fmware.spec.record import Record

__all__ = ["Distribution", "Spread"]

WIDEST = 10.0  # deviation of the log: a millionth of such draws are 10**20 medians away


class Spread(Record):
    """One distribution; exactly one of `fixed`, `uniform`, `lognormal` and `values` is given.

    Examples
    --------
    >>> Spread(uniform=(10, 20)).typical
    15.0
    """

    fixed: float | None = Field(default=None, ge=0, description="always this")
    uniform: tuple[float, float] | None = Field(default=None, description="least and most")
    lognormal: tuple[float, float] | None = Field(default=None, description="median and standard deviation of the log")
    values: list[float] | None = Field(default=None, min_length=1, description="each as likely as any other")
    least: float = Field(default=0.0, ge=0)
    most: float | None = Field(default=None, description="what is drawn above becomes this")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [f for f in ("fixed", "uniform", "lognormal", "values") if getattr(self, f) is not None]
        if len(given) != 1:
            raise ValueError(f"a distribution is one of fixed, uniform, lognormal and values; given: {given or 'none'}")
        if self.lognormal is not None and not (self.lognormal[0] > 0.0 <= self.lognormal[1] <= WIDEST):
            raise ValueError(f"a lognormal needs a median above 0 and a deviation of its log from 0 to {WIDEST:g}")
        if self.uniform is not None and not 0.0 <= self.uniform[0] <= self.uniform[1]:
            raise ValueError("uniform is the least and the most, none below 0; write the smaller one first")
        if self.values is not None and min(self.values) < 0.0:
            raise ValueError("values are numbers that are not below 0")
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most ({self.most:g}) is below least ({self.least:g}); raise most or lower least")
        return self

    def draw(self, source: random.Random) -> float:
        """Return the next value."""
        return self.sampler(source)()

    def sampler(self, source: random.Random) -> Callable[[], float]:
        """Return what draws the next value, for many draws."""
        if self.fixed is not None:
            fixed = self._bounded(self.fixed)
            return lambda: fixed
        least, most = self.least, inf if self.most is None else self.most
        if self.lognormal is not None:
            normal, mean, deviation = source.normalvariate, log(self.lognormal[0]), self.lognormal[1]

            def lognormal() -> float:
                value = exp(normal(mean, deviation))
                return least if value < least else most if value > most else value

            return lognormal
        if self.uniform is not None:
            draw = partial(source.uniform, *self.uniform)
        else:
            draw = partial(source.choice, self.values or [0.0])

        def bounded() -> float:
            value = draw()
            return least if value < least else most if value > most else value

        return bounded

    @property
    def typical(self) -> float:
        """What stands for it where lengths are deterministic: its mean."""
        if self.fixed is not None:
            value = self.fixed
        elif self.uniform is not None:
            value = sum(self.uniform) / 2
        elif self.lognormal is not None:
            value = self.lognormal[0] * exp(self.lognormal[1] ** 2 / 2)
        else:
            value = sum(self.values or [0.0]) / len(self.values or [0.0])
        return self._bounded(value)

    @property
    def bound(self) -> float:
        """A value that is hardly ever exceeded."""
        if self.most is not None:
            return self.most
        if self.fixed is not None:
            return self.fixed
        if self.uniform is not None:
            return self.uniform[1]
        if self.lognormal is not None:
            return self.lognormal[0] * exp(3 * self.lognormal[1])
        return max(self.values or [0.0])

    def _bounded(self, value: float) -> float:
        value = max(value, self.least)
        return value if self.most is None else min(value, self.most)


def _spread(value: Any) -> Any:
    return {"fixed": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


Distribution = Annotated[Spread, BeforeValidator(_spread)]  # a bare number is fixed
