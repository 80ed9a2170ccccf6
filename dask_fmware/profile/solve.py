"""Non-negative least squares on relative errors, deaf to outliers.

Times span four orders of magnitude, so a point counts by its relative error. Measured steps hold
outliers (a garbage collection, a neighbour on the card): weights are recomputed after Huber, around
the median error, until points far off count in proportion to one over their distance.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dask_fmware.errors import SpecError

__all__ = ["nonnegative_fit", "require_solver"]

Floats = NDArray[np.float64]
ROUNDS = 6  # reweighting has settled by then on every profile at hand
LEAST_ERROR = 1e-2  # a residual below one percent is no outlier, however good the rest is


def nonnegative_fit(design: Floats, target_s: Floats, scale_s: Floats, ties: Floats) -> Floats:
    """Coefficients >= 0 that minimise the robust sum of ``|design @ c - target_s| / scale_s``.

    Parameters
    ----------
    design
        Points by coefficients.
    target_s
        What the coefficients must explain.
    scale_s
        The measured time of each point: errors are relative to it.
    ties
        Penalty rows on the coefficients (`basis.smoothing_rows`); may have no rows.

    Raises
    ------
    SpecError
        SciPy is not installed.
    """
    nnls = _nnls()
    unit = np.maximum(np.abs(design).max(axis=0), 1e-12)
    scaled = design / unit / scale_s[:, None]
    wanted = target_s / scale_s
    penalty = ties / unit
    weight = np.ones(len(target_s))
    coefficients = np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        rows = np.vstack([scaled * weight[:, None], penalty * np.sqrt(np.mean(weight**2))])
        right = np.concatenate([wanted * weight, np.zeros(len(penalty))])
        coefficients, _residual = nnls(rows, right, maxiter=50 * design.shape[1])
        error = np.abs(scaled @ coefficients - wanted)
        limit = max(float(np.median(error)), LEAST_ERROR)
        weight = np.sqrt(np.minimum(1.0, limit / np.maximum(error, 1e-12)))
    return np.asarray(coefficients / unit)


def require_solver() -> None:
    """Raise SpecError if SciPy is not installed: better before a measurement than after it."""
    _nnls()


def _nnls() -> Callable[..., tuple[Floats, float]]:
    try:
        module = import_module("scipy.optimize")
    except ImportError as missing:
        raise SpecError(
            "fitting a profile needs SciPy, which is not installed: pip install 'dask-fmware[profile]'"
        ) from missing
    return cast("Callable[..., tuple[Floats, float]]", module.nnls)
