from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import Curve, StepLaw, chunk_pairs

slopes = st.floats(0, 1, allow_subnormal=False)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    knots = sorted(draw(st.sets(st.integers(1, 500), max_size=5)))
    return Curve(tuple(draw(slopes) for _ in range(len(knots) + 1)), tuple(float(k) for k in knots))


@st.composite
def step_laws(draw: st.DrawFn) -> StepLaw:
    return StepLaw(
        draw(slopes), draw(curves()), draw(curves()), draw(slopes), draw(curves()), draw(curves()), draw(slopes)
    )


amounts = st.integers(0, 1000)


@given(curves(), amounts, amounts)
def test_a_curve_never_falls_and_starts_at_zero(curve: Curve, x: int, more: int) -> None:
    assert curve(0) == 0
    assert curve(x + more) >= curve(x)


@given(curves(), st.floats(0, 600), st.floats(0, 60), st.integers(0, 50))
def test_the_sum_of_a_progression_is_the_sum_of_its_terms(
    curve: Curve, start: float, stride: float, count: int
) -> None:
    terms = sum(curve(start + k * stride) for k in range(count))
    assert curve.sum_s(start, stride, count) == pytest.approx(terms, rel=1e-9, abs=1e-9)


@given(curves(), st.lists(amounts, min_size=1))
def test_a_curve_on_an_array_equals_the_curve_on_each_element(curve: Curve, xs: list[int]) -> None:
    assert curve.array(np.array(xs, dtype=float)) == pytest.approx([curve(x) for x in xs])


@given(step_laws(), amounts, amounts, amounts, st.integers(1, 8), st.tuples(amounts, amounts, amounts))
def test_a_step_is_never_negative_and_grows_with_each_argument(
    law: StepLaw, tokens: int, batch: int, context: int, prompts: int, more: tuple[int, int, int]
) -> None:
    step_s = law.step_s(tokens, batch, context, prompts)
    assert step_s >= 0
    assert law.step_s(tokens + more[0], batch, context, prompts) >= step_s
    assert law.step_s(tokens, batch + more[1], context + more[2], prompts) >= step_s


@given(step_laws(), st.lists(st.tuples(amounts, amounts, amounts, st.integers(1, 8)), min_size=1))
def test_many_steps_at_once_equal_one_at_a_time(law: StepLaw, steps: list[tuple[int, int, int, int]]) -> None:
    tokens, batch, context, prompts = (np.array(column, dtype=float) for column in zip(*steps, strict=True))
    assert law.steps_s(tokens, batch, context, prompts) == pytest.approx([law.step_s(*step) for step in steps])


def test_the_plain_law_is_the_formula_of_the_design() -> None:
    law = StepLaw.plain(w0=0.01, w1=1e-4, w2=2e-3, w3=1e-6, w4=1e-8)
    assert law.step_s(100, 3, 5000) == pytest.approx(0.01 + 0.01 + 0.006 + 0.005 + 1e-4)
    assert law.step_s(0, 3, 5000) == pytest.approx(0.01 + 0.006 + 0.005)


@given(step_laws(), st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_scaled_law_scales_its_two_parts(law: StepLaw, decode: float, prefill: float) -> None:
    scaled = law.scaled(decode, prefill)
    assert scaled.step_s(0, 5, 300) == pytest.approx(decode * law.step_s(0, 5, 300))
    assert scaled.prefill_s(200, 2) == pytest.approx(prefill * law.prefill_s(200, 2))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_attention_pairs_of_chunks_add_up_to_those_of_the_prompt(chunks: list[int]) -> None:
    before = pairs = 0.0
    for chunk in chunks:
        pairs += chunk_pairs(chunk, before)
        before += chunk
    assert pairs == pytest.approx(chunk_pairs(sum(chunks), 0))


def test_a_step_without_prefill_has_no_prefill_cost() -> None:
    assert StepLaw(prefill_fixed_s=1.0).prefill_s(0) == 0


@pytest.mark.parametrize(
    ("slopes_s", "knots", "says"),
    [
        ((1.0,), (5.0,), "needs 2 slopes"),
        ((-1.0,), (), "at least 0"),
        ((float("nan"),), (), "finite"),
        ((1.0, 2.0), (0.0,), "positive"),
        ((1.0, 2.0, 3.0), (5.0, 5.0), "ascend"),
    ],
)
def test_a_curve_that_is_no_cost_is_refused(slopes_s: tuple[float, ...], knots: tuple[float, ...], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Curve(slopes_s, knots)


def test_a_negative_coefficient_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="pair_s"):
        StepLaw(pair_s=-1e-9)
