"""A small simulation under a policy: runs of two calls on cards of two speeds, one of which batches."""

from __future__ import annotations

from dask_fmware.policy import Policy
from dask_fmware.runtime.contract import Contract
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import Outcome, World

__all__ = ["played"]

RUNS = {
    "ask": {"model": "small", "prompt": 50, "output": {"uniform": [2, 8]}},
    "answer": {"model": "small", "prompt": 100, "output": 10, "after": ["ask"], "answers": True},
}


def played(policy: Policy, window_s: float) -> tuple[list[Outcome], list[str]]:
    """Play 40 runs that arrive within so many seconds, half of them without an objective.

    Returns what came of them, and what broke the contract. The cards serve some 16 runs a second.
    """
    scenario = Scenario.model_validate(
        {
            "cards": {"fast": {}, "slow": {}},
            "models": {"small": {"on": {"fast": {"plain": {"w0": 0.01}, "slots": 2}, "slow": {"plain": {"w0": 0.02}}}}},
            "workflows": {"prompt": {"slo": {"ttft_s": 0.5}, "nodes": RUNS}, "job": {"nodes": RUNS}},
            "arrivals": {"kind": "window", "count": 40, "window_s": window_s},
        }
    )
    contract = Contract(3, wake_at=lambda: world.machine.wake_at)
    world = World(
        scenario,
        policy,
        Workload(scenario, 0).runs(),
        watch=lambda event, now, actions: contract.observe(event, actions, now),
        max_attempts=3,
    )
    outcomes = world.play()
    return outcomes, [str(breach) for breach in contract.breaches]
