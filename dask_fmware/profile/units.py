"""Figures that no hardware has: whoever wrote them took other units than seconds and bytes."""

from __future__ import annotations

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import StepLaw

__all__ = ["check_bytes", "check_seconds"]

SLOWEST_S = 60.0  # of a step that decodes one sequence


def check_seconds(law: StepLaw) -> None:
    """Refuse a law by which a token takes longer than anywhere.

    Raises
    ------
    SpecError
        It names the time and the bound.
    """
    step_s = law.step_s(0, 1, 1)
    if step_s > SLOWEST_S:
        raise SpecError(
            f"a step that decodes one sequence would take {step_s:g} s, and takes {SLOWEST_S:g} s at most on any "
            "hardware; give seconds"
        )


def check_bytes(weight_bytes: float | None, kv_bytes_per_token: float | None) -> None:
    """Refuse keys and values of a token that take less than a byte, or more than the weights that make them.

    Raises
    ------
    SpecError
        It names the sizes.
    """
    kv = kv_bytes_per_token or 0.0
    if 0 < kv < 1:
        raise SpecError(f"kv_bytes_per_token={kv:g} is less than one; give bytes")
    if weight_bytes and weight_bytes < kv:
        raise SpecError(
            f"weight_bytes={weight_bytes:g} is less than what one token takes, kv_bytes_per_token={kv:g}; give bytes"
        )
