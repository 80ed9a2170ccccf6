"""What runs are drawn, and how long they take when nobody else is there."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.errors import SpecError
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.simulation.alone import _emulated_s, alone_s
from dask_fmware.simulation.arrivals import arrivals
from dask_fmware.simulation.scenario import GammaArrivals, Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World, new_machine

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


def gamma(burstiness: float, rate: float | None = None) -> int:
    spec = GammaArrivals(kind="gamma", rate=1.0, duration_s=60.0, burstiness=burstiness)
    return len(list(islice(arrivals(spec, Random(0), rate), 10_000)))


@pytest.mark.parametrize("burstiness", [1e-320, 1e-3, 4.0, 60.0])
def test_bursts_of_any_size_that_the_window_holds_are_drawn(burstiness: float) -> None:
    assert 50 <= gamma(burstiness) <= 60 + 3 * burstiness


@pytest.mark.parametrize(("burstiness", "rate"), [(61.0, None), (1e9, None), (60.0, 0.5)])
def test_a_burst_larger_than_all_arrivals_is_refused_in_words(burstiness: float, rate: float | None) -> None:
    with pytest.raises(SpecError, match=r"burstiness=\S+ is more than the (60|30) runs .* a longer duration_s"):
        gamma(burstiness, rate)


def test_plain_code_right_before_a_call_counts_in_what_a_run_takes_alone() -> None:
    call = {"model": "m", "prompt": 20, "output": 5}

    def unloaded_s(**told: float) -> float:
        nodes = {"a": call, "b": {**call, **told, "after": ["a"], "answers": True}}
        made = Scenario.model_validate(
            {
                "cards": {"A": {}},
                "models": {"m": {"on": {"A": {"plain": {"w0": 0.01}}}}},
                "workflows": {"w": {"nodes": nodes, "slo": {"factor": 2.0}}},
                "arrivals": {"kind": "window", "count": 1, "window_s": 1.0},
            }
        )
        (run,) = Workload(made, 0).runs()
        (outcome,) = World(made, "greedy", [run]).play()
        assert outcome.first_token_at - run.arrival == pytest.approx(run.unloaded_s)
        pause_s = new_machine(made, "slack").knowledge.nodes.pause_s("w", "b")
        assert pause_s == pytest.approx(told.get("seconds", 0.0))
        return run.unloaded_s

    assert unloaded_s(seconds=1.0) == pytest.approx(unloaded_s() + 1.0)
