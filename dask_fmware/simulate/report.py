"""What came of all seeds of a policy at a load: means, confidence intervals, paired differences.

Equal simulations give equal reports, as the bootstrap's draws are seeded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from dask_fmware.simulate.tally import Measured

__all__ = ["Cell", "Interval", "crossing", "interval", "paired", "shown"]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cell:
    """All seeds of one policy at one load."""

    policy: str
    load: float
    measured: tuple[Measured, ...]  # one for each seed, in order

    @property
    def goodput(self) -> Interval:
        """Over seeds."""
        return interval([one.goodput for one in self.measured])

    def mean(self, name: str) -> float:
        """Mean over seeds of a number that `Measured` has."""
        return float(sum(getattr(one, name) for one in self.measured)) / len(self.measured)

    @property
    def scale_curve(self) -> list[float]:
        """Times the SLO that runs took, in order: the quantiles of all seeds together."""
        return sorted(value for one in self.measured for value in one.scale_curve)

    def record(self) -> dict[str, Any]:
        """Return one row of a table: means over seeds."""
        goodput = self.goodput
        row: dict[str, Any] = {"policy": self.policy, "load": self.load, "seeds": len(self.measured)}
        row |= {"goodput": goodput.mean, "goodput_low": goodput.low, "goodput_high": goodput.high}
        for name, first in asdict(self.measured[0]).items():
            if name not in ("goodput", "share") and isinstance(first, int | float):
                row[name] = self.mean(name)
        row["latest_s"] = max(one.latest_s for one in self.measured)
        for accelerator in self.measured[0].share:
            row[f"share_{accelerator}"] = sum(one.share[accelerator] for one in self.measured) / len(self.measured)
        return row


def shown(value: Any, form: str) -> str:
    """Return a number as people read it: a time that never comes is ``never``.

    >>> shown(0.25, "{:.1f} s"), shown(inf, "{:.1f} s")
    ('0.2 s', 'never')
    """
    return "never" if value == inf else form.format(value)


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % percentile-bootstrap interval.

    >>> interval([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    draw = random.Random(len(values))
    count = len(values)
    means = sorted(sum(draw.choices(values, k=count)) / count for _ in range(RESAMPLES))
    return Interval(sum(values) / count, means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1])


def paired(one: Cell, other: Cell) -> Interval:
    """Goodput of `one` above that of `other`, seed by seed."""
    return interval([a.goodput - b.goodput for a, b in zip(one.measured, other.measured, strict=True)])


def crossing(loads: Sequence[float], goodput: Sequence[float], level: float = 0.7) -> float:
    """Return the largest load with this goodput: the last down-crossing, interpolated; infinity if there is none.

    >>> crossing([1, 2, 3], [1.0, 0.8, 0.6])
    2.5
    """
    found = inf if goodput[-1] >= level else 0.0
    for i in range(len(loads) - 1):
        if goodput[i] >= level > goodput[i + 1]:
            share = (goodput[i] - level) / (goodput[i] - goodput[i + 1])
            found = loads[i] + (loads[i + 1] - loads[i]) * share
    return round(found, 9)
