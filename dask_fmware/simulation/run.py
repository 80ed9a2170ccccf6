"""Running a scenario under policies, loads and seeds: `fm.simulate`."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import closing
from functools import lru_cache
from math import inf
from typing import Any

from dask_fmware.errors import SpecError
from dask_fmware.policy import create_policy
from dask_fmware.simulation.arrivals import version
from dask_fmware.simulation.closed_loop import ClosedLoop, endless, slots
from dask_fmware.simulation.fleet import Controller
from dask_fmware.simulation.left import check_has_objectives, left
from dask_fmware.simulation.report import Cell
from dask_fmware.simulation.scenario import (
    GammaArrivals,
    PoissonArrivals,
    Scenario,
    TraceArrivals,
    WindowArrivals,
    load_scenario,
)
from dask_fmware.simulation.study import Study
from dask_fmware.simulation.tally import Measured, Tally
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

LEAST_ENDS = 1000  # runs whose ends tell the capacity

__all__ = ["cells", "own_load", "play", "saturation", "simulate", "with_hindsight"]


def simulate(
    scenario: Scenario | str | os.PathLike[str] | Mapping[str, Any],
    policies: str | Sequence[str] = ("slack", "greedy", "least_outstanding", "power_of_two"),
    loads: float | Sequence[float] | None = None,
    seeds: int | Iterable[int] = 5,
    told: Callable[[str], object] | None = None,
    executor: Executor | None = None,
    hindsight: bool = False,
) -> Study:
    """Play a scenario in virtual time under several policies.

    Parameters
    ----------
    scenario
        A scenario, a path of its document, or a dictionary.
    policies
        Names of routing policies, or one of them. Others are compared with the first.
    loads
        Or one of them. Of arrivals in a window: how many runs; left out: as many as the scenario says. Of arrivals
        with a rate or time scale of their own: times as fast. Of all others: the rate relative to saturation (see
        `saturation`). Both are 1 if left out.
    seeds
        How many, or which.
    told
        Takes a word on each simulation that has ended.
    executor
        Where to play; by default here, one simulation after the other. What comes of them is the same:
        ``client.get_executor()`` of a Dask client, or a `concurrent.futures.ProcessPoolExecutor`.
    hindsight
        Look for the best schedule with all lengths known, and for a bound that no schedule exceeds (see `Study.left`).

    Returns
    -------
    Study
        With ``.frame`` (a `pandas.DataFrame`), ``.rows``, ``.plot()`` and ``.to_html(path)``.

    Raises
    ------
    SpecError
        The document is no sound scenario, or an argument is out of bounds.
    """
    loaded = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    if isinstance(seeds, str) or isinstance(loads, str):
        raise SpecError(f"loads={loads!r}, seeds={seeds!r}: give numbers, not texts")
    numbers = range(seeds) if isinstance(seeds, int) else list(seeds)
    policies = [policies] if isinstance(policies, str) else policies
    if not all(isinstance(policy, str) for policy in policies):
        raise SpecError(f"policies={policies!r}: give names; what makes yours goes into dask_fmware.policy.POLICIES")
    loads = own_load(loaded) if loads is None else loads
    loads = [loads] if isinstance(loads, int | float) else loads
    if hindsight:
        check_has_objectives(loaded)
    study = Study(loaded, list(cells(loaded, policies, loads, numbers, told, executor)))
    return with_hindsight(study, numbers) if hindsight else study


def with_hindsight(study: Study, seeds: Sequence[int]) -> Study:
    """Add what hindsight has in time at each load; see `simulation.left`."""
    numbers = list(dict.fromkeys(seeds))
    for load in study.loads:
        of_load = [study.cell(policy, load) for policy in study.policies]
        study.left[load] = left(*_at_load(study.scenario, load), numbers, of_load)
    return study


def cells(
    scenario: Scenario,
    policies: Sequence[str],
    loads: Sequence[float],
    seeds: Sequence[int],
    told: Callable[[str], object] | None = None,
    executor: Executor | None = None,
) -> Iterator[Cell]:
    """Yield what came of each policy at each load; all policies get the same runs. See `simulate`."""
    policies, loads, seeds = list(dict.fromkeys(policies)), list(dict.fromkeys(loads)), list(dict.fromkeys(seeds))
    if not policies or not loads or not seeds:
        raise SpecError("a simulation needs at least one policy, one load and one seed")
    for load in loads:
        if not 0.0 < load < inf:
            raise SpecError(f"a load must be positive, got {load:g}")
    for policy in policies:
        create_policy(policy, random.Random(0).random)  # says which there are before anything is played
    at = {load: _at_load(scenario, load) for load in loads}
    jobs = [(made, policy, seed, rate) for made, rate in at.values() for policy in policies for seed in seeds]
    played = _played(jobs, executor)
    with closing(played):
        for load in at:
            for policy in policies:
                measured: list[Measured] = []
                for seed in seeds:
                    measured.append(next(played))
                    if told is not None:
                        told(f"{policy}, load {load:g}, seed {seed}")
                yield Cell(policy, load, tuple(measured))


def own_load(scenario: Scenario) -> float:
    """Return the load at which a scenario is what it says."""
    return float(scenario.arrivals.count) if isinstance(scenario.arrivals, WindowArrivals) else 1.0


def _played(
    jobs: Iterable[tuple[Scenario, str, int, float | None]], executor: Executor | None
) -> Generator[Measured, None, None]:
    """What came of each simulation, in order; those that nobody asks for any more are not begun."""
    if executor is None:
        for job in jobs:
            yield play(*job)
        return
    futures = [executor.submit(play, *job) for job in jobs]
    try:
        for future in futures:
            yield future.result()
    except BrokenExecutor:  # which fails its futures itself; a cancelled one would be in its way
        raise
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _at_load(scenario: Scenario, load: float) -> tuple[Scenario, float | None]:
    """The scenario at a load, and the rate at which runs arrive if its arrivals do not say it."""
    spec = scenario.arrivals
    match spec:
        case WindowArrivals():
            if load < 1 or load != round(load):
                raise SpecError(f"a load of arrivals in a window is a number of runs, got {load:g}")
            return scenario.model_copy(update={"arrivals": spec.model_copy(update={"count": round(load)})}), None
        case TraceArrivals(time_scale=float() as scale):
            return scenario.model_copy(update={"arrivals": spec.model_copy(update={"time_scale": scale / load})}), None
        case PoissonArrivals(rate=float() as rate) | GammaArrivals(rate=float() as rate):
            return scenario, load * rate
    return scenario, load * saturation(scenario)


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
    if tally.runs == tally.never_ended:
        raise SpecError(f"seed {seed}: no run ended; let more arrive, or give the cluster replicas that serve them")
    return tally.measured(world.card_seconds)


def saturation(scenario: Scenario, seed: int = 0) -> float:
    """Return the runs a second that the cluster completes when it is never idle: the load that it can just bear.

    Twice as many runs as there are slots are under way at any time, workflows in their shares; counted are those that
    end after as many have ended, and none is rejected. Completions of a backlog that is submitted at once would
    overstate it by a quarter to a third: in its middle the first calls of all runs are done already, and the last ones
    of many are not.
    It is the better of two simple policies, so that it does not depend on the ones that are compared.

    Raises
    ------
    SpecError
        The cluster comes to a halt at once, as when a model has no replica.
    """
    spec = scenario.arrivals
    trace = version(spec) if isinstance(spec, TraceArrivals) else None
    served = {name: flow.model_copy(update={"on_miss": "finish"}) for name, flow in scenario.workflows.items()}
    kept = scenario.model_copy(update={"workflows": served})  # runs that are rejected would be no load
    return _saturation(kept.model_dump_json(), seed, trace)  # a document is a key, a scenario is none


@lru_cache(maxsize=8)
def _saturation(document: str, seed: int, _trace: tuple[int, int] | None) -> float:
    scenario = Scenario.model_validate_json(document)
    under_way = 2 * slots(scenario)
    count = max(2 * under_way, LEAST_ENDS)
    best = 0.0
    for policy in ("least_outstanding", "greedy"):
        world = ClosedLoop(endless(scenario, seed), under_way, scenario, policy, (), seed, under_way + count)
        ends = sorted(outcome.finished_at for outcome in world.play() if outcome.finished_at < inf)
        if len(ends) <= under_way:
            raise SpecError(
                f"scenario '{scenario.name}': its cluster comes to a halt at once, so nobody knows what load it can "
                "bear; give every model a replica that stays, or the arrivals a rate"
            )
        best = max(best, (len(ends) - under_way) / (ends[-1] - ends[under_way - 1]))
    return best
