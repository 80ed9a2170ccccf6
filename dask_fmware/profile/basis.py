"""Columns of a least-squares design that bend: ramps between knots, and the penalty that keeps them smooth.

A column may be a straight line (one coefficient) or a chain of ramps (one slope for each piece between
knots). Neighbouring slopes are tied by a weak penalty, so that a piece with few points follows its
neighbours and the last slope carries on beyond the measured range.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dask_fmware.profile.law import Curve

__all__ = ["Column", "curve_of", "knots_for", "matrix", "smoothing_rows"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One quantity of the law and the knots of its curve."""

    x: Floats  # the quantity, one element for each point
    knots: tuple[float, ...] = ()  # none: a straight line through zero


def knots_for(x: Floats) -> tuple[float, ...]:
    """Return powers of two inside the range of `x` with measured points at or below every one.

    Powers of two, because kernels are tiled that way and profiles are measured on such grids. A
    quantity with three or fewer different values gets a knot at each but its largest, if they are
    small counts, and none otherwise.
    """
    values = np.unique(x[x > 0])
    if len(values) < 2:
        return ()
    if len(values) < 4:
        return tuple(float(v) for v in values[:-1]) if values[-1] <= 8 else ()
    knots: list[float] = []
    below = 0.0
    power = 2.0 ** np.ceil(np.log2(values[0]))
    while power < values[-1]:
        if power > values[0] and np.any((values > below) & (values <= power)):
            knots.append(float(power))
            below = power
        power *= 2
    return tuple(knots)


def matrix(columns: list[Column]) -> Floats:
    """Return the design matrix: each column of the law as one or more ramps."""
    ramps: list[Floats] = []
    for column in columns:
        edges = (0.0, *column.knots, np.inf)
        if not column.knots:
            ramps.append(column.x)
            continue
        ramps += [np.clip(column.x, low, high) - low for low, high in pairwise(edges)]
    return np.stack(ramps, axis=1)


def smoothing_rows(columns: list[Column], y: Floats, strength: float) -> Floats:
    """Rows that pull neighbouring slopes together.

    Each is scaled by the knot over the time measured near it, so that a change of slope weighs by what
    it changes in the predicted time, relative to that time, like every point does.
    """
    width = sum(len(column.knots) + 1 for column in columns)
    rows: list[Floats] = []
    first = 0
    for column in columns:
        logs = np.log(np.maximum(column.x, 1e-9))
        for offset, knot in enumerate(column.knots):
            nearest = np.argsort(np.abs(logs - np.log(knot)), kind="stable")[:3]
            row = np.zeros(width)
            row[first + offset + 1] = knot / float(np.median(y[nearest]))
            row[first + offset] = -row[first + offset + 1]
            rows.append(row * np.sqrt(strength))
        first += len(column.knots) + 1
    return np.array(rows).reshape(len(rows), width)


def curve_of(column: Column, slopes: Floats) -> Curve:
    """Return the curve of a fitted column; neighbouring pieces with one slope are merged."""
    kept = [float(slopes[0])]
    knots: list[float] = []
    for knot, slope in zip(column.knots, slopes[1:], strict=True):
        if float(slope) != kept[-1]:
            knots.append(knot)
            kept.append(float(slope))
    return Curve(tuple(kept), tuple(knots))
