from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.profile.experiments import Experiment
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.meter import StepMeter
from dask_fmware.profile.observed_steps import steps_of
from tests.profile.playing import played

LAW = StepLaw.plain(0.010, 1e-4, 1e-3, 1e-6)


def test_tokens_of_one_step_that_arrive_one_after_the_other_are_one_step() -> None:
    meter = StepMeter(slots=2)
    meter.submitted("a", 10, 0.0)
    meter.submitted("b", 10, 0.0)
    for step in range(1, 5):
        meter.token("a", step * 0.1)
        meter.token("b", step * 0.1 + 0.01)
    meter.ended("a", 0.5)
    meter.ended("b", 0.5)
    steps = meter.take()
    assert [round(step.took_s, 6) for step in steps] == [0.1] * 4
    assert [step.batch for step in steps] == [0, 2, 2, 2]
    assert steps[0].firsts == ((10, 0), (10, 0))
    assert [step.context_tokens for step in steps] == [0, 22, 24, 26]


def test_several_tokens_at_once_are_several_steps() -> None:
    meter = StepMeter(slots=1)
    meter.submitted("a", 10, 0.0)
    for at, tokens in ((0.1, 1), (0.4, 3), (0.5, 1)):
        meter.token("a", at, tokens)
    meter.ended("a", 0.5)
    assert [(round(step.took_s, 6), step.steps) for step in meter.take()] == [(0.1, 1), (0.3, 3), (0.1, 1)]


def test_a_request_without_a_slot_does_not_prefill() -> None:
    meter = StepMeter(slots=1)
    meter.submitted("a", 10, 0.0)
    meter.token("a", 0.1)
    meter.submitted("b", 10, 0.15)
    meter.token("a", 0.2)
    meter.ended("a", 0.2)
    meter.token("b", 0.4)
    meter.ended("b", 0.4)
    steps = meter.take()
    assert [step.prefilling for step in steps] == [1, 0, 1]
    assert round(steps[-1].took_s, 6) == 0.2


def test_time_without_requests_belongs_to_no_step() -> None:
    meter = StepMeter(slots=1)
    for start in (0.0, 100.0):
        meter.submitted("a", 10, start)
        meter.token("a", start + 0.5)
        meter.ended("a", start + 0.5)
    assert [step.took_s for step in meter.take()] == [0.5, 0.5]


def test_tokens_of_unknown_requests_are_ignored() -> None:
    meter = StepMeter(slots=1)
    meter.token("nobody", 1.0)
    meter.ended("nobody", 1.0)
    assert meter.take() == []


@given(st.integers(1, 6), st.integers(1, 400), st.floats(0, 0.4), st.integers(0, 5))
def test_steps_add_up_to_what_the_law_took(batch: int, prompt: int, jitter: float, seed: int) -> None:
    experiment = Experiment("x", "decode", background=((prompt, 12),) * batch)
    traces = played(experiment, LAW, slots=8, jitter=jitter, seed=seed)
    steps = steps_of(traces, slots=8)
    assert sum(step.steps for step in steps) == 12
    assert {step.batch for step in steps[1:]} == {batch}
    for step in steps[2:]:
        law_s = LAW.step_s(0, batch, step.context_tokens)
        assert abs(step.took_s - law_s) <= jitter * LAW.step_s(0, 1, 1) + 1e-9
