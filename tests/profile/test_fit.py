from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.basis import Column, curve_of, knots_for, matrix, smoothing_rows
from dask_fmware.profile.fit import DecodeForm, PrefillForm, cross_validate, fit_law, fit_phases
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.points import PointTable, StepPoint

PLAIN = StepLaw.plain(0.01, 1e-4, 1e-3, 1e-6)
ROOFLINE = StepLaw(0.01, Curve((0.0, 2e-4), (64.0,)), Curve((1e-7,)), 0.0, Curve((0.0, 1e-4), (256.0,)), Curve(), 5e-8)


def grid(law: StepLaw, noise: float = 0.0, seed: int = 0) -> list[StepPoint]:
    rng = np.random.default_rng(seed)
    steps = [(0.0, 0, b, b * c) for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) for c in (64, 512, 2048)]
    steps += [(float(n * p), n, 0, 0) for p in (16, 64, 128, 256, 512, 1024, 4096) for n in (1, 2)]
    return [
        StepPoint(law.step_s(p, b, c, max(n, 1)) * float(np.exp(noise * rng.normal())), p, n, b, c)
        for p, n, b, c in steps
    ]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_a_plain_law_is_recovered_and_stays_plain() -> None:
    fit = fit_law(grid(PLAIN), rng())
    assert fit.decode is not None
    assert fit.prefill is not None
    assert (fit.decode.form, fit.prefill.form) == ("plain", "plain")
    assert fit.law.step_s(300, 5, 900) == pytest.approx(PLAIN.step_s(300, 5, 900), rel=1e-6)
    assert fit.decode.cv_median_error < 1e-6


def test_a_roofline_earns_curves_and_pairs() -> None:
    fit = fit_law(grid(ROOFLINE), rng())
    assert fit.decode is not None
    assert fit.prefill is not None
    assert "batch" in fit.decode.form
    assert "curve in tokens" in fit.prefill.form
    assert "pairs" in fit.prefill.form
    assert max(fit.decode.cv_median_error, fit.prefill.cv_median_error) < 0.02


def test_outliers_hardly_move_the_law() -> None:
    points = grid(PLAIN, noise=0.01)
    spoilt = [StepPoint(p.step_s * 8, p.prefill_tokens, p.prefilled, p.batch, p.context_tokens) for p in points[::9]]
    law = fit_law(points + spoilt, rng()).law
    assert law.step_s(0, 16, 9000) == pytest.approx(PLAIN.step_s(0, 16, 9000), rel=0.05)
    assert law.step_s(512, 0, 0) == pytest.approx(PLAIN.step_s(512, 0, 0), rel=0.08)


def test_a_few_steps_far_too_short_do_not_take_the_law_where_times_scatter() -> None:
    points = grid(PLAIN, noise=1.0)
    short = [StepPoint(p.step_s / 300, p.prefill_tokens, p.prefilled, p.batch, p.context_tokens) for p in points[::9]]
    law = fit_law(points + short, rng()).law
    for asked in ((0, 16, 9000), (512, 0, 0)):
        assert 0.3 < law.step_s(*asked) / PLAIN.step_s(*asked) < 3.0


def test_mixed_steps_are_explained_beside_pure_ones() -> None:
    mixed = [StepPoint(PLAIN.step_s(p, b, b * 100), p, 1, b, b * 100) for p in (50, 300) for b in (3, 20)]
    fit = fit_law(grid(PLAIN) + mixed, rng())
    assert fit.law.step_s(200, 10, 1000) == pytest.approx(PLAIN.step_s(200, 10, 1000), rel=1e-6)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0, 0.3))
def test_a_fitted_law_is_monotone_whatever_the_noise(seed: int, noise: float) -> None:
    law = fit_law(grid(ROOFLINE, noise, seed), np.random.default_rng(seed)).law
    tokens = np.linspace(0, 10_000, 60)
    assert np.all(np.diff(law.steps_s(tokens, 4, 1000)) >= -1e-12)
    assert np.all(np.diff(law.steps_s(0, tokens / 20, 1000)) >= -1e-12)
    assert np.all(np.diff(law.steps_s(0, 4, tokens)) >= -1e-12)


def test_equal_seeds_fit_equal_laws() -> None:
    points = grid(ROOFLINE, 0.05)
    assert fit_law(points, rng()) == fit_law(points, rng())


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (lambda p: p.prefill_tokens > 0, "decode law: 0 .* at least 6"),
        (lambda p: p.batch > 0, "prefill law: 0 .* 4 more"),
    ],
)
def test_too_few_points_are_refused_with_the_number_needed(keep: object, says: str) -> None:
    assert callable(keep)
    with pytest.raises(SpecError, match=says):
        fit_law([point for point in grid(PLAIN) if keep(point)], rng())


def test_points_that_do_not_vary_are_refused() -> None:
    same = [StepPoint(0.01, batch=4, context_tokens=100.0 * k) for k in range(8)]
    with pytest.raises(SpecError, match="batch = 4"):
        fit_phases(same, rng())
    single = [StepPoint(0.01, batch=1, context_tokens=100.0 * k) for k in range(8)]
    for slots in (None, 2):
        with pytest.raises(SpecError, match="batch = 1"):
            fit_phases(single, rng(), slots)
    assert fit_phases(single, rng(), 1).law.step_s(0, 1, 300) == pytest.approx(0.01)


def test_few_points_are_fitted_with_the_plain_form_only() -> None:
    points = [StepPoint(ROOFLINE.step_s(p, 0, 0), p, 1) for p in (16, 256, 1024, 4096)]
    fit = fit_phases(points, rng())
    assert fit.decode is None
    assert fit.prefill is not None
    assert fit.prefill.form == "plain"


@pytest.mark.parametrize("step_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_duration_that_no_step_has_is_refused(step_s: float) -> None:
    with pytest.raises(SpecError, match="positive, finite duration"):
        PointTable.of([StepPoint(step_s, batch=1)])


def test_the_range_in_which_a_fit_holds_is_what_was_measured() -> None:
    fit = fit_law(grid(PLAIN), rng())
    assert (fit.prefill_tokens[1], fit.batch[1]) == (8192, 256)


def test_cross_validation_predicts_each_point_without_it() -> None:
    decode, prefill = cross_validate(grid(PLAIN, 0.02), rng())
    assert (len(decode), len(prefill)) == (27, 14)
    assert 0.001 < float(np.median(decode)) < 0.05


def test_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(SpecError, match=r"dask-fmware\[profile\]"):
        fit_law(grid(PLAIN), rng())


def test_knots_are_powers_of_two_with_points_between() -> None:
    assert knots_for(np.array([16.0, 100, 1000, 5000, 9000])) == (32, 128, 1024, 8192)
    assert knots_for(np.array([0.0, 1, 2, 3])) == (1, 2)
    assert knots_for(np.array([10.0, 50, 90])) == ()
    assert knots_for(np.array([5.0, 5.0])) == ()


def test_ramps_add_up_to_the_quantity_they_split() -> None:
    x = np.array([1.0, 40, 500])
    assert matrix([Column(x, (32.0, 128.0))]).sum(axis=1) == pytest.approx(x)


def test_a_smoothing_row_ignores_equal_slopes() -> None:
    column = Column(np.array([1.0, 40, 500]), (32.0, 128.0))
    rows = smoothing_rows([column], np.array([0.1, 0.2, 0.3]), 1.0)
    assert rows @ np.ones(3) == pytest.approx(np.zeros(2))


def test_pieces_with_one_slope_become_one_piece() -> None:
    column = Column(np.array([1.0]), (8.0, 64.0))
    assert curve_of(column, np.array([0.5, 0.5, 0.7])) == Curve((0.5, 0.7), (64.0,))


def test_forms_have_names_for_tables() -> None:
    assert DecodeForm(True, True).name == "curve in batch and context"
    assert PrefillForm(True, "line", True).name == "curve in tokens, prompts (line), pairs"
