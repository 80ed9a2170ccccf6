"""What runs are drawn, and how long they take when nobody else is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.simulate.alone import _emulated_s, alone_s

BENT = StepLaw(
    0.01, Curve((1e-3, 2e-3), (4.0,)), Curve((1e-6, 3e-6), (900.0,)), 0.002, Curve((1e-5, 4e-5), (256.0,)),
    Curve((5e-4,)), 1e-9,
)  # fmt: skip
calls = st.lists(st.tuples(st.integers(1, 1200), st.integers(1, 80)), min_size=1, max_size=5)


@given(calls=calls, step_tokens=st.sampled_from([100, 512, 2048]), slots=st.integers(1, 6))
def test_calls_alone_take_what_the_emulated_engine_takes(
    calls: list[tuple[int, int]], step_tokens: int, slots: int
) -> None:
    limits = Limits(slots, step_tokens, 4000)
    assert alone_s(BENT, limits, tuple(calls)) == pytest.approx(_emulated_s(BENT, limits, tuple(calls)))
