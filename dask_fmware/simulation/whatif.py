"""What if: a recorded run under other policies, with other cards, objectives or loads, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dask_fmware.policy import create_policy
from dask_fmware.simulation.recorded import Recorded
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import FleetScenario
from dask_fmware.simulation.tally import Measured, measure

__all__ = ["Answer", "what_if"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: what was recorded, or what would have come of it."""

    case: str  # recorded, simulated, or what is changed
    policy: str
    measured: Measured


def what_if(
    recorded: Recorded,
    policies: Sequence[str] = (),
    *,
    add: Mapping[str, int] | None = None,
    slo_s: float | None = None,
    load: float = 1.0,
    seed: int | None = None,
) -> Iterator[Answer]:
    """Yield what was recorded, the same in the simulator, and then with the changes, under each policy.

    The second row says how far the simulator is to be trusted: it should be like the first.

    Parameters
    ----------
    recorded
        From `read_recorded`.
    policies
        The recorded one if none is named.
    add
        Cards by type; below 0: taken away.
    slo_s
        Another objective for all runs, seconds.
    load
        Runs come so many times as fast.
    seed
        Of the policies that draw; the recorded one if left out.

    Raises
    ------
    SpecError
        No card of a type was recorded, or fewer than are to be taken away; said before anything is played.
    DeploymentError
        There is no policy of a name; said before anything is played, too.
    """
    for policy in policies:
        create_policy(policy, random.Random(0).random)
    head = recorded.head
    drawn = head.seed if seed is None else seed
    fleet = recorded.with_cards(add) if add else recorded.fleet
    yield Answer("recorded", head.policy, measure(recorded.fleet, recorded.outcomes))
    yield Answer("simulated", head.policy, _play(recorded, recorded.fleet, head.policy, recorded.runs, drawn))
    runs = recorded.runs if slo_s is None else recorded.with_slo(slo_s)
    runs = runs if load == 1.0 else recorded.with_load(load, runs)
    changes = [f"{name}{count:+d}" for name, count in (add or {}).items()]
    changes += [f"SLO {slo_s:g} s"] if slo_s is not None else []
    changes += [f"load x{load:g}"] if load != 1.0 else []
    for policy in dict.fromkeys(policies or [head.policy]):
        if not changes and policy == head.policy:
            continue  # the second row is it
        yield Answer(", ".join(changes) or "simulated", policy, _play(recorded, fleet, policy, runs, drawn))


def _play(recorded: Recorded, fleet: FleetScenario, policy: str, runs: Sequence[SampledRun], seed: int) -> Measured:
    world = recorded.world(fleet, policy, runs, seed)
    return measure(fleet, world.play(), world.card_seconds)
