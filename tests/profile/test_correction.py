from __future__ import annotations

import random
from collections import deque
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.correction import Correction, ReplicaSpeed
from dask_fmware.profile.drift import Drift, DriftDetector
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.quantiles import ConformalQuantile, load_band

LAW = StepLaw.plain(0.01, 1e-4, 1e-3, 0.0)


@given(st.floats(0.2, 5), st.floats(0.2, 5))
def test_both_factors_are_learned_from_mixed_steps(decode: float, prefill: float) -> None:
    correction = Correction()
    for step in range(400):
        parts = LAW.step_s(0, step % 8, 0), LAW.prefill_s(100.0 * (step % 3))
        correction = correction.updated(*parts, decode * parts[0] + prefill * parts[1])
    assert correction.decode == pytest.approx(decode, rel=5e-2)
    assert correction.prefill == pytest.approx(prefill, rel=5e-2)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 100)), max_size=80))
def test_factors_stay_positive_and_finite_whatever_is_measured(steps: list[tuple[float, float, float]]) -> None:
    correction = Correction()
    for step in steps:
        correction = correction.updated(*step)
    assert 0.05 <= correction.decode <= 50
    assert 0.05 <= correction.prefill <= 50
    assert 0 < correction.decode_variance <= 1.0000001
    assert 0 < correction.prefill_variance <= 1.0000001


@pytest.mark.parametrize("ratio", [1.25, 1.6, 4.0])
def test_a_jump_is_learned_within_fifty_steps_and_so_is_its_end(ratio: float) -> None:
    speed, rng = ReplicaSpeed(), np.random.default_rng(1)

    def told_s() -> float:
        return speed.correction.decode * 0.01 + speed.correction.prefill * 0.002

    for step in range(900):
        true = ratio if 300 <= step < 600 else 1.0
        speed.observe(0.01, 0.002, 0.012 * true * float(np.exp(rng.normal(0, 0.05))), float(step))
        if step in (299, 350, 599, 650, 899):
            assert told_s() == pytest.approx(0.012 * true, rel=0.06), step


def test_a_profile_that_is_right_is_hardly_corrected() -> None:
    speed, rng = ReplicaSpeed(), np.random.default_rng(2)
    used = []
    for step in range(1000):
        speed.observe(0.01, 0.002 * (step % 3), (0.01 + 0.002 * (step % 3)) * float(np.exp(rng.normal(0, 0.1))), step)
        used.append(speed.correction.decode)
    assert float(np.std(used)) < 0.025  # 0.045 with a memory of ten steps alone


def test_an_engine_of_another_speed_is_known_better_the_longer_it_keeps_it() -> None:
    speed, rng = ReplicaSpeed(), np.random.default_rng(3)
    for step in range(1000):
        speed.observe(0.01, 0.0, 0.0125 * float(np.exp(rng.normal(0, 0.1))), step)
    assert speed.correction.decode == pytest.approx(1.25, rel=0.03)


def test_corrected_laws_are_scaled() -> None:
    correction = Correction(decode=1.5)
    assert correction.corrected(LAW).step_s(0, 4, 0) == pytest.approx(1.5 * LAW.step_s(0, 4, 0))


def test_prefill_is_not_forgotten_while_only_decoding() -> None:
    correction = Correction()
    for _ in range(50):
        correction = correction.updated(0.01, 0.05, 0.01 + 0.10)
    for _ in range(5000):
        correction = correction.updated(0.01, 0.0, 0.01)
    assert correction.prefill == pytest.approx(2.0, rel=0.1)


def test_a_step_without_time_teaches_nothing() -> None:
    assert Correction().updated(0.0, 0.0, 1.0) == Correction()
    assert Correction().updated(1.0, 0.0, 0.0) == Correction()


def test_forgetting_beyond_one_is_refused() -> None:
    with pytest.raises(SpecError, match="forgetting"):
        Correction(forgetting=1.5)


def test_bands_grow_with_load() -> None:
    bands = [load_band(0, 0, 8), load_band(3, 0, 8), load_band(8, 0, 8)]
    bands += [load_band(8, waiting, 8) for waiting in (1, 2, 4, 100)]
    assert bands == sorted(set(bands))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_ninety_percent_bound_holds_ninety_percent_of_the_time(shift: float) -> None:
    rng = np.random.default_rng(3)
    bound = ConformalQuantile(0.9)
    held = []
    for call in range(4000):
        band = call % 3
        measured_s = float(np.exp(rng.normal(shift * call / 1000, 0.1 + 0.1 * band)))
        if call >= 100:
            held.append(measured_s <= bound.factor(band))
        bound.observe(band, 1.0, measured_s)
    assert 0.87 <= float(np.mean(held)) <= 0.93
    assert bound.samples(0) == 300


def test_a_band_without_history_borrows_from_the_others() -> None:
    bound = ConformalQuantile(0.5)
    assert bound.factor(7) == 1.0
    for _ in range(5):
        bound.observe(1, 1.0, 2.0)
    assert bound.factor(7) == 2.0
    assert bound.samples(7) == 0


def test_a_prediction_of_nothing_teaches_nothing() -> None:
    bound = ConformalQuantile()
    bound.observe(0, 0.0, 1.0)
    assert bound.factor(0) == 1.0


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_a_quantile_outside_zero_to_one_is_refused(quantile: float) -> None:
    with pytest.raises(SpecError, match="quantile"):
        ConformalQuantile(quantile)


@pytest.mark.parametrize("ratio", [1.6, 0.5])
def test_drift_is_noticed_within_fifty_steps_dated_and_gone_after_recovery(ratio: float) -> None:
    rng = np.random.default_rng(1)
    detector = DriftDetector()
    noticed = None
    for step in range(600):
        true = ratio if 200 <= step < 400 else 1.0
        drift = detector.observe(true * float(np.exp(rng.normal(0, 0.05))), float(step))
        assert step >= 200 or drift is None
        if drift and noticed is None:
            noticed = step
        if step == 399:
            assert drift is not None
            assert drift.ratio == pytest.approx(ratio, rel=0.1)
            assert 195 <= drift.since_s <= 205
    assert noticed is not None
    assert noticed < 250
    assert detector.drift is None


def test_drift_is_told_in_a_sentence() -> None:
    assert Drift(1.61, 0.0).sentence("r3", "L4", "14:02") == "replica r3 on L4 runs 1.6 times its profile since 14:02"


def test_a_ratio_of_nothing_is_no_drift() -> None:
    assert DriftDetector().observe(0.0, 1.0) is None


def test_an_engine_on_the_verge_is_not_told_of_again_and_again() -> None:
    rng, detector, told = np.random.default_rng(0), DriftDetector(least=1.25), 0
    for step in range(2000):
        before = detector.drift
        after = detector.observe(float(np.exp(log(1.25) / 2 + rng.normal(0, 0.3))), float(step))
        told += before is None and after is not None
    assert told < 20


@pytest.mark.parametrize(("least", "patience"), [(1.0, 5.0), (1.2, 0.0)])
def test_a_drift_that_is_none_is_refused(least: float, patience: float) -> None:
    with pytest.raises(SpecError, match="drift"):
        DriftDetector(least, patience)


def test_the_bound_holds_also_where_ratios_wander_and_their_news_are_late() -> None:
    draw = random.Random(3)
    quantile, late, hits, wander = ConformalQuantile(0.9, window=200), deque(), 0, 0.0
    for n in range(6000):
        wander = 0.97 * wander + 0.05 * draw.gauss(0, 1)
        bound_s, measured_s = quantile.factor(0), exp(wander + 0.1 * draw.gauss(0, 1))
        hits += measured_s <= bound_s and n >= 1000
        late.append((measured_s, bound_s))
        if len(late) > 25:
            quantile.observe(0, 1.0, *late.popleft())
    assert 0.88 <= hits / 5000 <= 0.92
