"""Non-negative least squares on relative errors, deaf to outliers.

Times span four orders of magnitude, so a point counts by its relative error. Measured steps hold
outliers (a garbage collection, a neighbour on the card): weights are recomputed after Huber, around
the median error, until points far off count in proportion to one over their distance. Where times scatter
widely, as on a busy machine, a few that are far too short (two answers that arrived together) would have all the say,
since an error relative to them has no bound: then errors are relative to what was predicted where that is longer.
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
POOR = 0.3  # a median error above it is of no use
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
    coefficients, error = _reweighted(nnls, scaled, wanted, penalty)
    if np.median(error) > POOR:
        again, other = _reweighted(nnls, scaled, wanted, penalty, scale_s / np.median(scale_s))
        if np.median(other) < np.median(error):
            coefficients = again
    return np.asarray(coefficients / unit)


def _reweighted(
    nnls: Callable[..., tuple[Floats, float]],
    scaled: Floats,
    wanted: Floats,
    penalty: Floats,
    lengths: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Coefficients and the relative errors that they leave.

    With `lengths`, times over their median, an error is relative to the longer of what was predicted and measured, in
    the first fit to the median at least, so that a step far too short counts no more than one far too long.
    """
    weight = np.ones(len(wanted)) if lengths is None else np.minimum(1.0, lengths)
    coefficients, error = np.zeros(scaled.shape[1]), np.abs(wanted)
    for _ in range(ROUNDS):
        rows = np.vstack([scaled * weight[:, None], penalty * np.sqrt(np.mean(weight**2))])
        right = np.concatenate([wanted * weight, np.zeros(len(penalty))])
        coefficients, _residual = nnls(rows, right, maxiter=50 * scaled.shape[1])
        signed = scaled @ coefficients - wanted
        error = np.abs(signed)
        share = np.ones(len(wanted)) if lengths is None else 1.0 / np.maximum(1.0, 1.0 + signed)
        limit = max(float(np.median(error * share)), LEAST_ERROR)
        weight = np.sqrt(np.minimum(1.0, limit / np.maximum(error * share, 1e-12))) * share
    return coefficients, error


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
