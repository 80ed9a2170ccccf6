"""Running a scenario under policies, loads and seeds: `fm.simulate`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.simulate.engines import Controller
from dask_fmware.simulate.report import Cell
from dask_fmware.simulate.scenario import Scenario, WindowArrivals, load_scenario
from dask_fmware.simulate.tally import Measured, Tally
from dask_fmware.simulate.workload import Workload
from dask_fmware.simulate.world import World

__all__ = ["cells", "play", "saturation", "simulate"]


def simulate(
    scenario: Scenario | str | Path,
    policies: Sequence[str] = ("slack", "greedy", "least_outstanding", "power_of_two"),
    loads: Sequence[float] = (1.0,),
    seeds: int | Iterable[int] = 5,
) -> Any:
    """Play a scenario in virtual time under several policies.

    Parameters
    ----------
    scenario
        A scenario, or a path of its document.
    policies
        Names of routing policies.
    loads
        Of arrivals in a window: how many runs. Of all others: the rate relative to saturation (see `saturation`),
        unless the arrivals have a rate or time scale of their own, which it multiplies.
    seeds
        How many, or which.

    Returns
    -------
    pandas.DataFrame or list of dict
        One row for each policy and load; a list where pandas is not installed.
    """
    loaded = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    numbers = range(seeds) if isinstance(seeds, int) else list(seeds)
    rows = [cell.record() for cell in cells(loaded, policies, loads, numbers)]
    try:
        import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def cells(scenario: Scenario, policies: Sequence[str], loads: Sequence[float], seeds: Sequence[int]) -> Iterable[Cell]:
    """Yield what came of each policy at each load; all policies get the same runs."""
    full = None if isinstance(scenario.arrivals, WindowArrivals) else _full_rate(scenario)
    for load in loads:
        if isinstance(scenario.arrivals, WindowArrivals):
            arrivals = scenario.arrivals.model_copy(update={"count": round(load)})
            at_load, rate = scenario.model_copy(update={"arrivals": arrivals}), None
        else:
            at_load, rate = scenario, load * (full or 1.0)
        for policy in policies:
            measured: list[Measured] = []
            for seed in seeds:
                measured.append(play(at_load, policy, seed, rate))
            yield Cell(policy, load, tuple(measured))


def play(
    scenario: Scenario, policy: str, seed: int, rate: float | None = None, controller: Controller | None = None
) -> Measured:
    """Play one simulation and sum it up; no run is kept, so that memory stays small.

    Raises
    ------
    SpecError
        No run arrived or none ended.
    """
    tally = Tally(scenario)
    runs = Workload(scenario, seed).drawn(rate=rate)
    world = World(scenario, policy, runs, seed, controller=controller, ended=tally.add)
    world.play()
    if not tally.runs:
        raise SpecError(f"seed {seed}: no run ended; let more arrive, or give the cluster replicas that serve them")
    return tally.measured(world.card_seconds)


def _full_rate(scenario: Scenario) -> float:
    own = getattr(scenario.arrivals, "rate", None)
    return own if own is not None else saturation(scenario)


def saturation(scenario: Scenario, seed: int = 0) -> float:
    """Runs a second that the cluster completes when it is never idle: the middle of a large backlog.

    The better of two simple policies, so that it does not depend on the ones that are compared.
    """
    count = min(150 * sum(card.count for card in scenario.cards.values()), 4000)
    backlog = scenario.model_copy(update={"arrivals": WindowArrivals(kind="window", count=count, window_s=1.0)})
    best = 0.0
    for policy in ("least_outstanding", "greedy"):
        ends = sorted(o.finished_at for o in World(backlog, policy, Workload(backlog, seed).runs(), seed).play())
        first, last = int(0.2 * count), int(0.8 * count)
        best = max(best, (last - first) / (ends[last] - ends[first]))
    return best
