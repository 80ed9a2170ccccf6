from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.emulation import FIRST, LAST, EmulatedBatch
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.replica import Limits
from tests.profile.stepping import stepwise

LAWS = {
    "plain": StepLaw.plain(0.010, 1e-5, 1e-3, 1e-6, 1e-9),
    "bent": StepLaw(
        fixed_s=0.01,
        decode=Curve((1e-4, 1e-3), (4.0,)),
        context=Curve((1e-7, 5e-6), (600.0,)),
        prefill_fixed_s=0.003,
        prefill=Curve((0.0, 2e-5), (64.0,)),
        sequences=Curve((1e-4,)),
        pair_s=1e-8,
    ),
}

Job = tuple[float, str, int, int, int, float]


def emulate(law: StepLaw, limits: Limits, jobs: list[Job]) -> dict[tuple[str, int], float]:
    """Feed jobs into a batch and return when each output came."""
    batch = EmulatedBatch(law, limits)
    outputs = []
    for at, name, prompt, output, ready, priority in sorted(jobs):
        outputs += batch.advance(at)
        batch.add(at, name, prompt, output, ready, priority)
    while batch.next_event_at < inf:
        outputs += batch.advance(batch.next_event_at)
    assert batch.idle
    assert [o.at for o in outputs] == sorted(o.at for o in outputs)
    return {(o.sequence_id, o.kind): o.at for o in outputs}


jobs_of = st.lists(
    st.tuples(
        st.floats(0, 3), st.integers(1, 900), st.integers(1, 80), st.integers(0, 1000), st.sampled_from([0.0, 0.0, 1.0])
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=40)
@given(jobs=jobs_of, slots=st.integers(1, 6), budget=st.sampled_from([16, 128, 2048]), kv=st.sampled_from([None, 1500]))
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_it_agrees_with_a_simpy_model_that_takes_every_step(law, jobs, slots, budget, kv):
    pytest.importorskip("simpy")
    limits = Limits(slots, budget, kv)
    named = [(at + i * 1e-5, f"s{i}", *sizes) for i, (at, *sizes) in enumerate(jobs)]
    mine, theirs = emulate(law, limits, named), stepwise(law, limits, named)
    assert mine.keys() == theirs.keys()
    for key, at in theirs.items():
        assert mine[key] == pytest.approx(at, rel=1e-9, abs=1e-9), key


def test_tokens_are_counted_inside_a_segment():
    batch = EmulatedBatch(LAWS["plain"], Limits(2))
    batch.add(0.0, "a", 100, 50)
    (first,) = [o for o in batch.advance(0.02) if o.kind == FIRST]
    step_s = LAWS["plain"].step_s(0, 1, 101)
    assert batch.tokens("a", first.at) == 1
    assert batch.tokens("a", first.at + 10.5 * step_s) == 11
    assert batch.tokens("b", 1.0) == 0


@given(at=st.floats(0.0, 1.0))
def test_an_aborted_sequence_gives_nothing_more_and_frees_its_slot(at):
    batch = EmulatedBatch(LAWS["plain"], Limits(1))
    batch.add(0.0, "a", 200, 60)
    batch.add(0.0, "b", 100, 2)
    before = batch.advance(at)
    gone = batch.abort(at, "a")
    after = batch.advance(100.0)
    assert gone == (("a", LAST) not in {(o.sequence_id, o.kind) for o in before})
    assert "a" not in {o.sequence_id for o in after} or not gone
    assert ("b", LAST) in {(o.sequence_id, o.kind) for o in before + after}
    assert (batch.idle, batch.running) == (True, 0)
    assert not batch.abort(100.0, "a")


def test_an_abort_in_mid_flight_leaves_the_others_as_if_it_ended_there():
    rng = random.Random(3)
    for _ in range(50):
        batch = EmulatedBatch(LAWS["bent"], Limits(4, 64))
        for name in "abcd":
            batch.add(0.0, name, rng.randint(1, 300), rng.randint(1, 40))
        at = rng.random()
        outputs = batch.advance(at)
        batch.abort(at, "b")
        outputs += batch.advance(100.0)
        assert {o.sequence_id for o in outputs if o.kind == LAST} >= {"a", "c", "d"}
        assert batch.idle


def test_speed_scales_what_is_left():
    batch = EmulatedBatch(LAWS["plain"], Limits(1))
    batch.add(0.0, "a", 100, 100)
    alone = emulate(LAWS["plain"], Limits(1), [(0.0, "a", 100, 100, 0, 0.0)])["a", LAST]
    half = alone / 2
    batch.advance(half)
    batch.set_speed(half, 0.5)
    (last,) = [o for o in batch.advance(100.0) if o.kind == LAST]
    assert last.at == pytest.approx(half + 2 * (alone - half))


def test_bad_sequences_are_refused():
    batch = EmulatedBatch(LAWS["plain"], Limits(1))
    batch.add(0.0, "a", 1, 1)
    with pytest.raises(SpecError, match="already"):
        batch.add(0.0, "a", 1, 1)
    with pytest.raises(SpecError, match="at least one token"):
        batch.add(0.0, "b", 0, 1)
