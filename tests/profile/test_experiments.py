from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.experiments import experiments_for
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.observed_steps import points_of, step_tokens_of, steps_of, without_bursts
from dask_fmware.profile.points import StepPoint
from dask_fmware.profile.progress import EngineFacts, PartialProfile, TraceRecord
from dask_fmware.profile.record import Profile, ProfileKey
from tests.profile.playing import played

KEY = ProfileKey(model="m", accelerator="a", engine="e", engine_version="1")
STRAIGHT = StepLaw.plain(0.010, 1e-4, 1e-3, 1e-6)
BENT = StepLaw(0.01, Curve((2e-3, 5e-4), (4.0,)), Curve((2e-6,)), 2e-3, Curve((2e-5, 1e-4), (128.0,)), Curve(), 1e-8)


def profiled(law: StepLaw, slots: int, context: int, step_tokens: int = 1 << 30, jitter: float = 0.0) -> Profile:
    part = PartialProfile(key=KEY, facts=EngineFacts(slots=slots, context_tokens=context))
    for n, experiment in enumerate(part.to_do(1)):
        traces = played(experiment, law, slots, step_tokens, jitter, seed=n)
        part = part.with_traces(experiment, tuple(TraceRecord(**vars_of(trace)) for trace in traces))
    return part.profile("a test", np.random.default_rng(0))


def vars_of(trace) -> dict:
    return {name: getattr(trace, name) for name in TraceRecord.model_fields}


@pytest.mark.parametrize("law", [STRAIGHT, BENT], ids=["straight", "bent"])
@pytest.mark.parametrize("step_tokens", [1 << 30, 512], ids=["whole prompts", "chunks"])
def test_experiments_find_the_law_they_were_played_on(law: StepLaw, step_tokens: int) -> None:
    made = profiled(law, slots=8, context=1024, step_tokens=step_tokens)
    found = made.step_law
    for tokens, batch, context in ((0, 1, 100), (0, 4, 2000), (0, 8, 4000), (100, 0, 0), (400, 3, 900), (60, 7, 500)):
        assert found.step_s(tokens, batch, context) == pytest.approx(law.step_s(tokens, batch, context), rel=0.06)
    assert made.largest_batch == 8
    assert made.decode is not None
    assert made.decode.cv_median_error < 0.02


@pytest.mark.parametrize("law", [STRAIGHT, BENT], ids=["straight", "bent"])
def test_an_engine_that_runs_one_request_at_a_time_is_profiled(law: StepLaw) -> None:
    made = profiled(law, slots=1, context=1024)
    for tokens, batch, context in ((0, 1, 20), (0, 1, 500), (0, 1, 1000), (32, 0, 0), (100, 0, 0), (400, 0, 0)):
        assert made.step_law.step_s(tokens, batch, context) == pytest.approx(
            law.step_s(tokens, batch, context), rel=0.06
        )
    assert made.largest_batch == 1


@pytest.mark.parametrize("step_tokens", [128, 256, 512])
def test_the_chunk_of_prefill_is_found(step_tokens: int) -> None:
    assert profiled(STRAIGHT, 4, 1024, step_tokens).step_tokens == step_tokens


def test_an_engine_that_never_cuts_a_prompt_has_no_chunk() -> None:
    assert profiled(STRAIGHT, 4, 1024).step_tokens is None


def test_late_tokens_cost_little_accuracy() -> None:
    found = profiled(STRAIGHT, slots=4, context=1024, jitter=0.3).step_law
    for batch, context in ((1, 500), (2, 800), (4, 3000)):
        assert found.step_s(0, batch, context) == pytest.approx(STRAIGHT.step_s(0, batch, context), rel=0.05)


@settings(max_examples=30)
@given(st.integers(1, 256), st.integers(64, 131_072), st.integers(1, 3))
def test_experiments_fit_the_engine(slots: int, context: int, repeats: int) -> None:
    found = experiments_for(slots, context, repeats)
    assert len({experiment.id for experiment in found}) == len(found)
    for experiment in found:
        requests = (*experiment.background, *experiment.probes)
        assert len(requests) <= slots
        assert all(prompt + output <= context - 10 for prompt, output in requests)
        assert all(output > experiment.lead_tokens for _prompt, output in experiment.background)


def test_a_run_that_goes_on_does_not_repeat_what_it_has() -> None:
    part = PartialProfile(key=KEY, facts=EngineFacts(slots=2, context_tokens=512))
    planned = part.to_do(2)
    part = part.with_traces(planned[0], ()).without([planned[3]])
    assert part.to_do(2) == [planned[1], planned[2], *planned[4:]]


def test_too_few_points_are_refused_with_how_many_are_needed() -> None:
    part = PartialProfile(key=KEY, facts=EngineFacts(slots=2, context_tokens=512))
    first = part.to_do(1)[0]
    traces = played(first, STRAIGHT, 2)
    part = part.with_traces(first, tuple(TraceRecord(**vars_of(trace)) for trace in traces))
    with pytest.raises(SpecError, match="too few points"):
        part.profile("a test", np.random.default_rng(0))


def test_a_burst_of_tokens_is_no_quick_step() -> None:
    sound = [StepPoint(0.001 * b, batch=b, context_tokens=100) for b in (1, 2, 4, 1, 2, 4)]
    burst = StepPoint(0.00001, batch=2, context_tokens=120)
    prefill = StepPoint(0.00001, prefill_tokens=10)
    assert without_bursts([*sound, burst, prefill]) == [*sound, prefill]


def test_a_background_stream_that_ends_early_spoils_no_point() -> None:
    experiment = next(e for e in experiments_for(4, 1024, 1) if e.phase == "mixed")
    traces = played(experiment, STRAIGHT, 4)
    for point in points_of(steps_of(traces, 4)):
        law_s = STRAIGHT.step_s(point.prefill_tokens, point.batch, point.context_tokens, max(point.prefilled, 1))
        assert point.step_s == pytest.approx(law_s, rel=0.05)


def test_chunks_are_not_guessed_without_mixed_experiments() -> None:
    assert step_tokens_of([]) is None
