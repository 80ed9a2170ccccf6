"""Prompts that kill every engine they come to fail; calls that ran beside them do not."""

from __future__ import annotations

import pytest

from dask_fmware.simulation.scenario import Scenario
from tests.faults.world import FaultyWorld
from tests.runtime.builders import POLICY_NAMES


def scenario(replicas: int, slots: int, runs: int) -> Scenario:
    """Engines that batch, as busy as they can bear."""
    law = {"w0": 0.02, "w1": 1e-4, "w2": 1e-4}
    call = {"model": "m", "prompt": 50, "output": {"uniform": [20, 100]}, "answers": True}
    return Scenario.model_validate(
        {
            "cards": {"c": {"count": replicas, "most": replicas}},
            "models": {"m": {"on": {"c": {"slots": slots, "load_s": 1.0, "plain": law}}}},
            "workflows": {"w": {"slo": {"ttft_s": 5.0}, "nodes": {"a": call}}},
            "arrivals": {"kind": "window", "count": runs, "window_s": runs / 6},
            "warm_start": True,
            "name": "poison",
        }
    )


def poisoned(seed: int, policy: str, share: float, replicas: int = 2, slots: int = 8, runs: int = 100) -> FaultyWorld:
    """Play a share of poison, and hold the machine to its contract."""
    world = FaultyWorld(seed, policy, scenario(replicas, slots, runs), (), share, stuck=0.0)
    assert not world.run()
    return world


def harmed(world: FaultyWorld) -> set[str]:
    """Runs that failed without being to blame."""
    return world.unserved - {call_id.partition("/")[0] for call_id, is_poison in world.is_poison.items() if is_poison}


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_neighbours_of_poison_are_served(policy: str) -> None:
    deaths = poisonous = 0
    for seed, (replicas, slots) in enumerate(((1, 4), (2, 8), (4, 8))):
        world = poisoned(seed, policy, 0.04, replicas, slots)
        assert not harmed(world)
        poisonous += sum(world.is_poison.values())
        assert len(world.unserved) == sum(world.is_poison.values())
        deaths += world.injected["poison"]
    assert poisonous >= 5
    assert deaths <= 4 * poisonous  # three attempts each, and one more that had not begun when its replica died


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_neighbours_of_poison_are_served_for_many_seeds(policy: str) -> None:
    for seed in range(60):
        share, replicas, slots = (0.01, 0.02, 0.05)[seed % 3], 1 + seed % 5, (2, 8, 16)[seed % 3]
        assert not harmed(poisoned(seed, policy, share, replicas, slots, 300)), f"seed {seed}"


def test_without_replicas_of_their_own_neighbours_are_harmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_fmware.runtime.dispatching.apart.Apart.concerns", lambda apart, call: False)
    assert any(harmed(poisoned(seed, "slack", 0.04)) for seed in range(4))
