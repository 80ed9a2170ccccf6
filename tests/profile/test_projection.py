"""The projection against a simulation that takes one step after another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import Curve, StepLaw, chunk_pairs
from dask_fmware.profile.projection import Projection
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState

PLAIN = StepLaw.plain(0.01, 2e-5, 1e-3, 1e-6, 1e-9)
BENT = StepLaw(
    0.01,
    Curve((0.001, 0.0, 0.003), (2.0, 4.0)),
    Curve((1e-6, 5e-6, 2e-6), (64.0, 256.0)),
    0.004,
    Curve((1e-5, 3e-5), (32.0,)),
    Curve((0.002, 0.001), (1.0,)),
    1e-7,
)


@dataclass
class Slow:
    """One sequence of the simulation."""

    state: SequenceState
    left: int
    generated: int
    more: int
    is_candidate: bool = False
    first_s: float | None = None
    began_s: float | None = None

    @classmethod
    def of(cls, state: SequenceState, is_candidate: bool = False) -> Slow:
        return cls(state, state.prefill_tokens, state.generated_tokens, state.decode_tokens, is_candidate)


def simulate(
    load: ReplicaLoad, limits: Limits, law: StepLaw, candidate: SequenceState, after_s: float = 0.0
) -> tuple[float, float, float]:
    """Begin of prefill, first and last token of a candidate, step by step."""
    running = [Slow.of(state) for state in load.running]
    queue = [Slow.of(state) for state in load.waiting]
    own = Slow.of(candidate, is_candidate=True)
    arrived = False
    now_s = 0.0
    while True:
        if not arrived and (now_s >= after_s or not (running or queue)):
            now_s = max(now_s, after_s)
            queue.append(own)
            arrived = True
        while queue and len(running) < limits.slots:
            reserved = sum(slow.state.kv_tokens for slow in running)
            need = queue[0].state.kv_tokens
            if running and limits.kv_tokens is not None and reserved + need > limits.kv_tokens:
                break
            running.append(queue.pop(0))
        decoding = [slow for slow in running if not slow.left]
        room = max(limits.step_tokens - len(decoding), 0)
        tokens = prompts = 0
        pairs = 0.0
        prefilled = []
        for slow in running:
            if slow.left and room:
                share = min(slow.left, room)
                if slow.is_candidate and slow.began_s is None:
                    slow.began_s = now_s
                pairs += chunk_pairs(share, slow.state.prompt_tokens - slow.left)
                slow.left -= share
                room -= share
                tokens += share
                prompts += 1
                if not slow.left:
                    prefilled.append(slow)
        context = sum(slow.state.prompt_tokens + slow.generated for slow in decoding)
        now_s += law.step_s(tokens, len(decoding), context, prompts, pairs)
        for slow in decoding + prefilled:
            slow.generated += 1
            slow.more -= 1
            if slow.is_candidate and slow.first_s is None:
                slow.first_s = now_s
            if not slow.more:
                running.remove(slow)
                if slow.is_candidate:
                    assert slow.began_s is not None
                    assert slow.first_s is not None
                    return slow.began_s, slow.first_s, now_s


def sequences(running: bool) -> st.SearchStrategy[SequenceState]:
    def build(prompt: int, output: int, share: float, generated: int) -> SequenceState:
        if running and generated:
            return SequenceState(prompt, output, prompt, generated)
        return SequenceState(prompt, output, int(share * prompt))

    return st.builds(build, st.integers(1, 120), st.integers(1, 25), st.floats(0, 1), st.integers(0, 30))


@st.composite
def replicas(draw: st.DrawFn) -> tuple[ReplicaLoad, Limits]:
    slots = draw(st.integers(1, 6))
    running = draw(st.lists(sequences(running=True), max_size=slots))
    waiting = draw(st.lists(sequences(running=False), max_size=5))
    kv = draw(st.none() | st.integers(60, 600))
    return ReplicaLoad(tuple(running), tuple(waiting)), Limits(slots, draw(st.integers(1, 200)), kv)


laws = st.sampled_from([PLAIN, replace(BENT, context=Curve((3e-6,)))])


@given(replicas(), sequences(running=False), laws)
def test_projection_equals_the_step_by_step_simulation(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, law: StepLaw
) -> None:
    load, limits = replica
    began_s, first_s, last_s = simulate(load, limits, law, candidate)
    estimate = Projection(load, limits, law).estimate(candidate)
    assert estimate.l_r_s + estimate.l_q_s == pytest.approx(began_s, rel=1e-9, abs=1e-12)
    assert estimate.ttft_s == pytest.approx(first_s, rel=1e-9)
    assert estimate.completion_s == pytest.approx(last_s, rel=1e-9)
    assert min(estimate) >= 0


@given(replicas(), sequences(running=False), laws, st.floats(0, 2))
def test_a_later_arrival_is_projected_from_the_same_projection(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, law: StepLaw, after_s: float
) -> None:
    load, limits = replica
    _began_s, first_s, last_s = simulate(load, limits, law, candidate, after_s)
    estimate = Projection(load, limits, law).estimate(candidate, after_s)
    assert after_s + estimate.ttft_s == pytest.approx(first_s, rel=1e-9)
    assert after_s + estimate.completion_s == pytest.approx(last_s, rel=1e-9)
    assert min(estimate) >= -1e-12


@given(replicas(), sequences(running=False), sequences(running=False))
def test_one_more_ahead_in_the_queue_never_makes_a_candidate_faster(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, more: SequenceState
) -> None:
    load, limits = replica
    before = Projection(load, limits, PLAIN).estimate(candidate)
    after = Projection(ReplicaLoad(load.running, (*load.waiting, more)), limits, PLAIN).estimate(candidate)
    assert after.ttft_s >= before.ttft_s - 1e-9
    assert after.completion_s >= before.completion_s - 1e-9


@given(replicas(), sequences(running=False), st.integers(1, 500), laws)
def test_one_more_in_the_batch_never_makes_a_candidate_faster(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, prompt: int, law: StepLaw
) -> None:
    load, limits = replica
    before = Projection(load, Limits(limits.slots, limits.step_tokens), law).estimate(candidate)
    more = SequenceState(prompt, 5000, prompt, 1)  # with its own slot and token: it only makes steps longer
    wide = Limits(limits.slots + 1, limits.step_tokens + 1)
    after = Projection(ReplicaLoad((more, *load.running), load.waiting), wide, law).estimate(candidate)
    assert after.ttft_s >= before.ttft_s - 1e-9


@given(replicas(), sequences(running=False), st.integers(0, 50), st.integers(0, 50))
def test_a_longer_candidate_never_ends_sooner(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, prompt: int, output: int
) -> None:
    projection = Projection(*replica, PLAIN)
    longer = SequenceState(candidate.prompt_tokens + prompt, candidate.output_tokens + output, candidate.ready_tokens)
    assert projection.estimate(longer).ttft_s >= projection.estimate(candidate).ttft_s - 1e-9
    assert projection.estimate(longer).completion_s >= projection.estimate(candidate).completion_s - 1e-9


@given(replicas(), sequences(running=False))
def test_a_law_that_bends_with_context_is_projected_within_two_percent(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState
) -> None:
    load, limits = replica
    began_s, first_s, last_s = simulate(load, limits, BENT, candidate)
    estimate = Projection(load, limits, BENT).estimate(candidate)
    assert estimate.l_r_s + estimate.l_q_s == pytest.approx(began_s, rel=1e-9, abs=1e-12)
    assert estimate.ttft_s == pytest.approx(first_s, rel=2e-2)
    assert estimate.completion_s == pytest.approx(last_s, rel=2e-2)


@given(replicas(), sequences(running=False))
def test_ttft_alone_is_the_ttft_of_the_whole_estimate(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState
) -> None:
    projection = Projection(*replica, BENT)
    assert projection.ttft_s(candidate) == pytest.approx(projection.estimate(candidate).ttft_s)


@given(replicas(), sequences(running=False), st.lists(sequences(running=False), max_size=4))
def test_followers_slow_the_tokens_of_a_candidate_and_nobody_behind_it_leaves_them_as_they_are(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, followers: list[SequenceState]
) -> None:
    load, limits = replica
    projection = Projection(load, limits, PLAIN)
    alone_s = projection.completion_s(candidate, ())
    assert alone_s == pytest.approx(projection.estimate(candidate).completion_s, rel=1e-9)
    assert projection.completion_s(candidate, followers) >= alone_s * (1 - 1e-9)


def test_an_idle_replica_has_no_wait_in_its_estimate() -> None:
    estimate = Projection(ReplicaLoad(), Limits(slots=1), PLAIN).estimate(SequenceState(10, 1))
    assert estimate.l_r_s == 0
    assert estimate.l_q_s == 0
    assert estimate.l_x_s == estimate.l_x_ttft_s == estimate.ttft_s == pytest.approx(PLAIN.step_s(10, 0, 0))


def test_waiting_on_running_sequences_is_told_from_waiting_in_the_queue() -> None:
    load = ReplicaLoad((SequenceState(10, 50, 10, 20),), (SequenceState(10, 5),))
    estimate = Projection(load, Limits(slots=1), PLAIN).estimate(SequenceState(10, 5))
    alone = Projection(ReplicaLoad(load.running), Limits(slots=1), PLAIN).estimate(SequenceState(10, 5))
    assert estimate.l_r_s == pytest.approx(alone.l_r_s)
    assert alone.l_q_s == 0
    assert estimate.l_q_s == pytest.approx(PLAIN.step_s(10, 0, 0) + sum(PLAIN.step_s(0, 1, 11 + k) for k in range(4)))


def test_prefix_cache_credit_shortens_the_prefill() -> None:
    projection = Projection(ReplicaLoad(), Limits(slots=1), PLAIN)
    warm, cold = projection.estimate(SequenceState(1000, 5, 900)), projection.estimate(SequenceState(1000, 5))
    assert warm.ttft_s < cold.ttft_s


@pytest.mark.parametrize(("name", "limits"), [("slots", (0, 1)), ("step_tokens", (1, 0)), ("kv_tokens", (1, 1, 0))])
def test_limits_below_one_are_refused_by_name(name: str, limits: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=name):
        Limits(*limits)


def test_a_sequence_without_prompt_is_refused() -> None:
    with pytest.raises(SpecError, match="prompt_tokens=0"):
        SequenceState(0, 1)


def test_a_replica_is_idle_after_its_last_sequence() -> None:
    load = ReplicaLoad((SequenceState(10, 3, 10, 1),))
    busy = Projection(load, Limits(slots=2), PLAIN)
    assert busy.idle_after_s == pytest.approx(PLAIN.step_s(0, 1, 11) + PLAIN.step_s(0, 1, 12))
    assert Projection(ReplicaLoad(), Limits(slots=2), PLAIN).idle_after_s == 0


@given(replicas(), sequences(running=False), st.floats(0, 1))
def test_room_is_found_for_any_later_arrival(
    replica: tuple[ReplicaLoad, Limits], candidate: SequenceState, share: float
) -> None:
    projection = Projection(*replica, PLAIN)
    after_s = share * projection.idle_after_s
    later = projection.estimate(candidate, after_s)
    assert min(later) >= -1e-9
    assert after_s + later.ttft_s >= projection.estimate(candidate).ttft_s - 1e-9
