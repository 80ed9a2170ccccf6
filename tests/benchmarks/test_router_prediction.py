"""The router's closed form and the Profiler's projection are one law: where they must agree, and where they may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.router_prediction import FIGURE, LAWS, measure
from dask_fmware.policy.estimate import expected_s
from dask_fmware.policy.protocol import ReplicaView
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.projection import Projection
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState

SLOTS = 16
LAW = st.sampled_from(list(LAWS.values()))
TOKENS = st.integers(1, 1000)


def both(law: StepLaw, beside: int, prompt: int, output: int) -> tuple[float, float, float]:
    """The router's prediction, the projection's, and a step; beside calls that decode and outlast this one."""
    others = tuple(SequenceState(200, 4 * output + 100, 200, 20) for _ in range(beside))
    context = sum(s.prompt_tokens + s.generated_tokens + output // 2 for s in others)  # on average meanwhile
    view = ReplicaView(
        "r", "r", "m", "a", "c", SLOTS, beside, 0, beside, FIGURE, 0.0, 0.0, law=law, context_tokens=context
    )
    projected = Projection(ReplicaLoad(others), Limits(SLOTS, 1 << 20), law).estimate(SequenceState(prompt, output))
    return expected_s(prompt, output, view, 0.0), projected.completion_s, law.step_s(0, beside + 1, context + prompt)


@given(law=LAW, prompt=TOKENS, output=TOKENS)
def test_on_an_idle_replica_they_are_a_step_apart(law: StepLaw, prompt: int, output: int) -> None:
    router_s, projected_s, step_s = both(law, 0, prompt, output)
    assert abs(router_s - projected_s) <= 0.02 * projected_s + 2 * step_s


@given(law=LAW, beside=st.integers(1, SLOTS - 1), prompt=TOKENS, output=TOKENS)
def test_beside_calls_that_stay_they_agree(law: StepLaw, beside: int, prompt: int, output: int) -> None:
    router_s, projected_s, step_s = both(law, beside, prompt, output)
    assert abs(router_s - projected_s) <= 0.1 * projected_s + 2 * step_s


@pytest.mark.parametrize("name", LAWS)
def test_under_load_the_router_errs_no_more_than_the_projection(name: str) -> None:
    """Who will come matters more than when those who are there will go, and only finished calls tell of it."""
    found = measure(LAWS[name], slots=16, load=1.2, seeds=1, calls=300)["latency"]
    assert found["router"][0] < found["projection"][0]
    assert found["finished"][0] < (0.75 if name.startswith("GPU") else 1.1) * found["router"][0]
