"""How much policies leave: the best schedule that was found with all lengths known, and what no schedule exceeds."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf

from dask_fmware.errors import SpecError
from dask_fmware.simulation.bound import most_possible
from dask_fmware.simulation.clairvoyant import most_in_time, true_calls
from dask_fmware.simulation.hindsight import most_served_in_time
from dask_fmware.simulation.report import Cell
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload

__all__ = ["Left", "check_has_objectives", "left"]


@dataclass(frozen=True, slots=True)
class Left:
    """Shares of runs in time at one load, means over seeds."""

    hindsight: float  # of the best schedule that was found; never below that of any policy
    no_schedule_above: float | None  # a bound for all schedules; None where cards batch, fail or load, or without scipy


def check_has_objectives(scenario: Scenario) -> None:
    """Raise SpecError if no run can be late."""
    if not any(workflow.slo is not None and workflow.share for workflow in scenario.workflows.values()):
        raise SpecError(f"scenario '{scenario.name}': no workflow has an slo, so hindsight has nothing to tell")


def left(scenario: Scenario, rate: float | None, seeds: Sequence[int], cells: Sequence[Cell]) -> Left:
    """Look for a better schedule than those of policies.

    Parameters
    ----------
    scenario
        At the load.
    rate
        Of arrivals, if the scenario does not say it.
    seeds
        That were played.
    cells
        What came of each policy.
    """
    best: list[float] = []
    bounds: list[float | None] = []
    hosted = {model for model, _ in scenario.placement()}  # others come by a controller alone, if at all
    for number, seed in enumerate(seeds):
        runs = [run for run in Workload(scenario, seed).drawn(rate=rate) if run.deadline < inf]
        known = max(round(cell.measured[number].goodput * len(runs)) for cell in cells)
        served = [run for run in runs if _is_served(run, hosted)]
        found, bound = _most(scenario, served, known, seed) if served else (0, 0)
        best.append(found / len(runs) if runs else 1.0)
        bounds.append(None if bound is None else bound / len(runs) if runs else 1.0)
    known_bounds = [bound for bound in bounds if bound is not None]
    return Left(_mean(best), _mean(known_bounds) if len(known_bounds) == len(bounds) else None)


def _is_served(run: SampledRun, hosted: Set[str]) -> bool:
    """Whether each model that a run calls has a replica."""
    return all(model in hosted for node in run.nodes for model, _ in true_calls(node))


def _most(scenario: Scenario, runs: Sequence[SampledRun], known: int, seed: int) -> tuple[int, int | None]:
    """Runs of the best schedule that was found, and the bound."""
    try:
        found = most_in_time(scenario, runs, known)
    except SpecError:  # not serial, or not the same all the time: what its engines play is a schedule as well
        return most_served_in_time(scenario, runs, known=known, seed=seed), None
    if found == len(runs):
        return found, found
    return found, most_possible(scenario, runs) if find_spec("scipy") is not None else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
