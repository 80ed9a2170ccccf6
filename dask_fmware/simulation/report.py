"""What came of all seeds of a policy at a load: means, confidence intervals, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any

from dask_fmware.simulation.tally import Measured, rank

__all__ = ["Cell", "Interval", "crossing", "interval", "paired", "shown"]

REACH = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip  # 97.5 % quantiles of Student's t, by degrees of freedom from 1 on


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its 95 % interval."""

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
        return interval([one.goodput for one in self.measured], 0.0, 1.0)

    def mean(self, name: str) -> float:
        """Mean over seeds of a number that `Measured` has."""
        return float(sum(getattr(one, name) for one in self.measured)) / len(self.measured)

    @property
    def scale_curve(self) -> list[float]:
        """Times the SLO that runs took, in order: the quantiles of all seeds together."""
        return sorted(value for one in self.measured for value in one.scale_curve)

    def record(self) -> dict[str, Any]:
        """Return one row of a table: means over seeds, and how far the SLO must be relaxed for all of them together."""
        goodput = self.goodput
        row: dict[str, Any] = {"policy": self.policy, "load": self.load, "seeds": len(self.measured)}
        row |= {"goodput": goodput.mean, "goodput_low": goodput.low, "goodput_high": goodput.high}
        for name, first in asdict(self.measured[0]).items():
            if name not in ("goodput", "share") and isinstance(first, int | float):
                row[name] = self.mean(name)
        row["scale_95"], row["scale_99"] = (rank(self.scale_curve, share) for share in (0.95, 0.99))
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


def interval(values: Sequence[float], least: float = -inf, most: float = inf) -> Interval:
    """Return the mean of values, one for each seed, and its 95 % interval, that of Student's t.

    Parameters
    ----------
    values
        At least one; a single one has an interval without width, which says nothing.
    least, most
        What the mean cannot be beyond, as a share cannot be beyond 0 and 1.

    Examples
    --------
    >>> one = interval([0.5, 0.75, 1.0], 0.0, 1.0)
    >>> one.mean, round(one.low, 3), one.high
    (0.75, 0.129, 1.0)
    """
    count = len(values)
    mean = sum(values) / count
    if count == 1 or min(values) == max(values):
        return Interval(mean, mean, mean)
    spread = sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    reach = spread / sqrt(count) * (REACH[count - 2] if count <= len(REACH) + 1 else _beyond(count - 1))
    return Interval(mean, max(mean - reach, least), min(mean + reach, most))


def _beyond(freedom: int) -> float:
    """97.5 % quantile of Student's t for many degrees of freedom (Abramowitz and Stegun 26.7.5).

    >>> round(_beyond(60), 3), round(_beyond(1000), 3)
    (2.0, 1.962)
    """
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


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
