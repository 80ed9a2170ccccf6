"""A replica that is slowed in mid-run: noticed, and predicted rightly again within fifty calls. In virtual time."""

from __future__ import annotations

from statistics import median

import pytest

from dask_fmware.model.messages import StepsTimed
from dask_fmware.runtime import AttemptEnded
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SLOWED_AT_S, SLOWER = 60.0, 1.6


class Watched:
    """A simulation of one card, with what was predicted of each attempt and what came of it."""

    def __init__(self, *, corrected: bool) -> None:
        scenario = Scenario.model_validate(
            {
                "cards": {"L4": {}},
                "models": {"small": {"on": {"L4": {"slots": 4, "plain": {"w0": 0.01, "w1": 1e-4, "w2": 1e-3}}}}},
                "workflows": {
                    "ask": {
                        "slo": {"ttft_s": 5.0},
                        "nodes": {"ask": {"model": "small", "prompt": 200, "output": 40, "answers": True}},
                    }
                },
                "arrivals": {"kind": "poisson", "rate": 2.0, "duration_s": 150.0},
                "history": 20,
                "failures": [{"card": "L4-0", "at_s": SLOWED_AT_S, "slow": SLOWER}],
            }
        )
        self.errors: list[tuple[float, float]] = []  # when an attempt began, and how far off its prediction was
        self.noticed_at: float | None = None
        self.corrected = corrected
        world = World(scenario, "least_outstanding", Workload(scenario, 0).runs())
        machine = world.machine
        if not corrected:
            machine.fleet.corrections.observe = lambda message, now: False  # type: ignore[method-assign]
        machine.observers.append(self)
        self.machine = machine
        world.play()

    def observe(self, event: object, actions: object, now: float) -> None:
        if isinstance(event, StepsTimed) and self.machine.fleet.corrections.drift(event.replica_id) is not None:
            self.noticed_at = self.noticed_at or now
        if isinstance(event, AttemptEnded):
            call = self.machine.runs.calls[event.call_id]
            attempt = call.report.attempts[-1]
            began, took = call.run.report.submitted + attempt.started_at, attempt.ended_at - attempt.started_at
            told_s = attempt.predicted_s if self.corrected else attempt.by_law_s
            self.errors.append((began, abs(told_s - took) / took))

    def error(self, first: int, last: int | None = None) -> float:
        """Median error of some of the calls that began after the card was slowed."""
        after = [error for began, error in sorted(self.errors) if began >= SLOWED_AT_S]
        return median(after[first:last])

    @property
    def before(self) -> float:
        return median(error for began, error in self.errors if began < SLOWED_AT_S - 5)


def test_a_slowed_replica_is_noticed_and_predicted_rightly_again_within_fifty_calls() -> None:
    corrected, static = Watched(corrected=True), Watched(corrected=False)
    assert corrected.noticed_at is not None
    assert corrected.noticed_at - SLOWED_AT_S < 10
    assert corrected.error(50) == pytest.approx(corrected.before, abs=0.03)
    assert static.error(50) > 0.25, "without correction predictions stay wrong"
    assert static.noticed_at is None
