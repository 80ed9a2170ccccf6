"""How sure one may be of a mean, and of a difference between two. Rows count as drawn independently.

Means of truth values have Wilson's interval, others that of Student's t. Two outputs are compared row by row, which
takes out how hard the rows are: McNemar's exact test and the interval of Bonett and Price where scores are truth
values, a sign-flip permutation test of the mean difference and Student's t otherwise. Sources: Wilson 1927; McNemar
1947; Bonett and Price 2012; Good, *Permutation Tests*, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Difference", "Mean", "difference", "holm", "mean"]

CONFIDENCE = 0.95
FLIPS = 9999  # random sign flips of a permutation test
BLOCK = 1 << 22  # signs drawn at once
ALIKE = 1e-12  # values that differ by less, relative to the largest, are one value that was rounded


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its interval; `low` and `high` are None where one value, or some that are alike, hide the spread."""

    rows: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """B less A over the same rows."""

    rows: int
    a: Mean
    b: Mean
    mean: float
    low: float | None
    high: float | None
    p: float | None  # that a difference as large comes by chance; None where nothing can be said
    test: str
    better: int  # rows where B is higher
    worse: int


def mean(values: ArrayLike) -> Mean | None:
    """Return the mean of values with its 95 % interval, leaving out those that are not a number; None for none."""
    from scipy import stats

    kept = _known(values)
    if not kept.size:
        return None
    middle = float(kept.mean())
    if _is_truth(kept):
        interval = stats.binomtest(int(kept.sum()), kept.size).proportion_ci(CONFIDENCE, method="wilson")
        return Mean(kept.size, middle, float(interval.low), float(interval.high))
    low, high = _t_interval(kept)
    return Mean(kept.size, middle, low, high)


def difference(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Difference | None:
    """Compare paired values, leaving out rows where either is not a number; None if none are left.

    Parameters
    ----------
    a, b
        Equally long, of the same rows in the same order.
    seed
        Of the permutation test.
    """
    from scipy import stats

    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    mean_a, mean_b = mean(first), mean(second)
    if mean_a is None or mean_b is None:
        return None
    change = second - first
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    p: float | None
    low: float | None
    high: float | None
    if _is_truth(np.concatenate([first, second])):
        p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
        test, (low, high) = "McNemar, exact", _paired_interval(better, worse, first.size)
    elif first.size < 2:
        p, test, low, high = None, "none: one row", None, None
    else:
        p, test, (low, high) = _sign_flips(change, seed), "permutation of signs", _t_interval(change)
    shift = float(change.mean())
    return Difference(first.size, mean_a, mean_b, shift, low, high, p, test, better, worse)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for how many were asked for (Holm 1979); None stays None."""
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    made: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, index) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        made[index] = least
    return made


def _sign_flips(change: NDArray[np.float64], seed: int) -> float:
    """Share of random signs under which the mean difference is at least as large, the seen one included."""
    moved = change[change != 0.0]
    if not moved.size:
        return 1.0
    seen, random = abs(moved.sum()) * (1 - 1e-12), np.random.default_rng(seed)
    beyond, left = 0, FLIPS
    while left:
        rounds = min(left, max(1, BLOCK // moved.size))
        signs = random.integers(0, 2, size=(rounds, moved.size), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ moved) >= seen).sum())
        left -= rounds
    return (beyond + 1) / (FLIPS + 1)


def _t_interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    from scipy import stats

    if values.size < 2 or float(np.ptp(values)) <= ALIKE * float(np.abs(values).max()):
        return None, None
    error = float(values.std(ddof=1)) / values.size**0.5
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, values.size - 1)) * error
    return float(values.mean()) - reach, float(values.mean()) + reach


def _paired_interval(better: int, worse: int, rows: int) -> tuple[float, float]:
    """Interval of the difference of two shares of the same rows, which has a width also where no row has changed."""
    from scipy import stats

    up, down = (better + 1) / (rows + 2), (worse + 1) / (rows + 2)
    reach = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * ((up + down - (up - down) ** 2) / (rows + 2)) ** 0.5
    return max(up - down - reach, -1.0), min(up - down + reach, 1.0)


def _known(values: ArrayLike) -> NDArray[np.float64]:
    array: NDArray[np.float64] = np.asarray(values, dtype=float)
    return np.asarray(array[np.isfinite(array)])


def _is_truth(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())
