"""All replicas go at once, again and again, under load: no storm of retries when they come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from dask_fmware.runtime.actions import Action, Assign
from dask_fmware.runtime.events import Event
from dask_fmware.simulation.run import saturation
from dask_fmware.simulation.scenario import Failure, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.runtime.builders import POLICY_NAMES

SCENARIO = load_scenario(Path(__file__).parents[2] / "benchmarks" / "scenarios" / "loss.yaml")
CARDS, SLOTS = 4, 8
OUTAGES_S = (20.0, 40.0, 60.0)
DOWN_S = 5.0


class Tries:
    """How often each call was started, and how many started within one second."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[int] = Counter()

    def observe(self, event: Event, actions: Sequence[Action], now: float) -> None:
        for action in actions:
            if isinstance(action, Assign):
                self.calls[action.call_id] += 1
                self.seconds[int(now)] += 1


ORDINARY = ("slack", "least_outstanding")  # one that binds late, one that binds early
BY_PLAN = [name if name in ORDINARY else pytest.param(name, marks=pytest.mark.slow) for name in POLICY_NAMES]


@pytest.mark.parametrize("policy", BY_PLAN)
def test_what_ran_at_an_outage_is_tried_once_more_and_nothing_else(policy: str) -> None:
    cards = [f"card-{n}" for n in range(CARDS)]
    failures = tuple(Failure(card=card, at_s=at_s, down_s=DOWN_S) for at_s in OUTAGES_S for card in cards)
    scenario = SCENARIO.model_copy(update={"failures": failures})
    tries = Tries()
    runs = Workload(scenario, 1).runs(rate=0.9 * saturation(scenario))
    world = World(scenario, policy, runs, 1)
    world.machine.observers.append(tries)
    outcomes = list(world.play())
    assert len(outcomes) == len(runs)
    assert all(outcome.finished_at < float("inf") for outcome in outcomes)
    again = sum(count - 1 for count in tries.calls.values())
    assert 0 < again <= len(OUTAGES_S) * CARDS * SLOTS
    for at_s in OUTAGES_S:
        assert not any(tries.seconds[second] for second in range(int(at_s) + 1, int(at_s + DOWN_S)))
