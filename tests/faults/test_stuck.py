"""Attempts that get no token are tried elsewhere, under any policy and within the contract."""

from __future__ import annotations

import pytest

from dask_fmware.simulation.scenario import Scenario
from tests.faults.world import FaultyWorld
from tests.runtime.builders import POLICY_NAMES

SCENARIO = Scenario.model_validate(
    {
        "cards": {"card": {"count": 3}},
        "models": {"small": {"on": {"card": {"slots": 4, "plain": {"w0": 0.02, "w1": 1e-4, "w2": 1e-3}}}}},
        "workflows": {
            "chain": {
                "slo": {"ttft_s": 3.0},
                "nodes": {
                    "a": {"model": "small", "prompt": 100, "output": {"uniform": [5, 20]}},
                    "b": {"model": "small", "after": ["a"], "prompt": 300, "output": 20, "answers": True},
                },
            }
        },
        "arrivals": {"kind": "window", "count": 40, "window_s": 20.0},
    }
)


def play(policy: str, seed: int, hedge_budget: float) -> FaultyWorld:
    """A world in which one attempt in ten gets no token."""
    world = FaultyWorld(seed, policy, SCENARIO, (), poison=0.0, stuck=0.1, hedge_budget=hedge_budget)
    found = world.run()
    assert not found, found
    return world


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_most_runs_whose_calls_are_stuck_are_in_time_elsewhere(policy: str) -> None:
    without = within = 0
    for seed in range(3):
        alone, hedged = play(policy, seed, 0.0), play(policy, seed, 1.0)
        assert alone.contract.counts["attempts moved"] == 0
        assert 0 < hedged.contract.counts["attempts moved"] <= hedged.injected["stuck"] + 2
        without, within = without + alone.met, within + hedged.met
    assert within > without


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_budget_is_kept(policy: str) -> None:
    counts = play(policy, 0, 0.05).contract.counts
    assert counts["attempts moved"] <= 0.06 * counts["attempts"]
