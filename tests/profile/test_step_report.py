from __future__ import annotations

import random

import pytest

from dask_fmware.profile.correction import Correction
from dask_fmware.profile.emulation import FIRST, EmulatedBatch
from dask_fmware.profile.experiments import Experiment
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.meter import StepMeter
from dask_fmware.profile.observed_steps import steps_of
from dask_fmware.profile.replica import Limits
from dask_fmware.profile.step_report import StepReporter
from tests.profile.playing import played

LAW = StepLaw.plain(0.010, 1e-4, 1e-3, 1e-6)
MIXED = Experiment("x", "mixed", ((100, 60),) * 3, ((300, 1),), 10)


def reports(played_on: StepLaw, step_tokens: int | None = None):
    reporter = StepReporter(LAW, step_tokens)
    traces = played(MIXED, played_on, 4, step_tokens or 1 << 30)
    return [report for step in steps_of(traces, 4) if (report := reporter.add(step)) is not None]


@pytest.mark.parametrize("step_tokens", [None, 128])
def test_an_engine_that_runs_its_profile_is_reported_so(step_tokens: int | None) -> None:
    found = reports(LAW, step_tokens)
    assert len(found) >= 3
    assert any(report.prefill_s for report in found)
    for report in found[1:]:
        assert report.ratio == pytest.approx(1.0, rel=0.02)


def test_reports_correct_the_law_of_a_slower_engine() -> None:
    correction = Correction()
    for _ in range(20):
        for report in reports(LAW.scaled(1.6, 1.3)):
            correction = correction.updated(report.decode_s, report.prefill_s, report.measured_s)
    assert correction.decode == pytest.approx(1.6, rel=0.03)
    assert correction.prefill == pytest.approx(1.3, rel=0.03)


def test_a_prompt_that_is_half_done_is_not_reported() -> None:
    law = StepLaw.plain(0.010, 1e-4, 1e-3, 1e-6)
    reporter = StepReporter(law, 128)
    traces = played(Experiment("x", "prefill", probes=((1000, 1),)), law, 4, 128)
    found = [reporter.add(step) for step in steps_of(traces, 4)]
    assert [report is not None for report in found] == [True]
    assert found[0].ratio == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("interval_s", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_steps_add_up_although_tokens_of_several_come_together(interval_s: float, seed: int) -> None:
    draw, slots, reporter, meter = random.Random(seed), 4, StepReporter(LAW, 128), StepMeter(4)
    batch, now, submitted, reports = EmulatedBatch(LAW, Limits(slots, 128)), 0.0, 0, []
    lengths: dict[str, int] = {}
    told: dict[str, int] = {}

    def tell(id_: str, tokens: int) -> None:
        if tokens > told[id_]:
            meter.token(id_, now, tokens - told[id_])
            told[id_] = tokens

    while submitted < 300 or lengths:
        if submitted < 300 and len(lengths) < slots + 2:
            id_, prompt = f"r{submitted}", draw.randint(20, 300)
            lengths[id_], told[id_], submitted = draw.randint(1, 60), 0, submitted + 1
            meter.submitted(id_, prompt, now)
            batch.add(now, id_, prompt, lengths[id_])
            continue
        tick = interval_s * (int(now / interval_s + 1e-9) + 1)
        now = min(batch.next_event_at, tick)
        for output in batch.advance(now):
            tell(output.sequence_id, 1 if output.kind == FIRST else lengths[output.sequence_id])
            if output.kind != FIRST:
                meter.ended(output.sequence_id, now)
                del lengths[output.sequence_id]
        if now == tick:
            for id_ in lengths:
                tell(id_, batch.tokens(id_, now))
        reports += [report for step in meter.take() if (report := reporter.add(step)) is not None]
    expected_s = sum(report.decode_s + report.prefill_s for report in reports)
    # an end tells of a whole step where only a part of it has passed since the last bundle: up to 6 %
    assert sum(report.measured_s for report in reports) == pytest.approx(expected_s, rel=0.06)
