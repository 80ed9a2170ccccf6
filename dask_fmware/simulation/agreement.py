"""How far the simulator repeats what a cluster did: the same calls on the same replicas in the same order.

A recorded run is played under its own policy. Real time jitters, so two decisions may change places; how far apart in
real time such pairs were says how large the jitter is within which both agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dask_fmware.runtime import Action, Assign, Event
from dask_fmware.simulation.recorded import Assigned, Recorded
from dask_fmware.simulation.tally import measure

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Recorded against simulated."""

    calls: int
    same_replica: float  # share of calls on the same replica
    swapped: float  # share of pairs of decisions in another order
    swapped_p99_s: float  # 99 % of those pairs were no further apart when they were recorded
    swapped_most_s: float
    goodput_recorded: float
    goodput_simulated: float

    @property
    def points(self) -> float:
        """Difference of goodput, in points of a hundred."""
        return 100.0 * abs(self.goodput_recorded - self.goodput_simulated)


def agreement(recorded: Recorded) -> Agreement:
    """Play a recorded run under its own policy and compare the decisions."""
    simulated: list[Assigned] = []

    def watch(event: Event, now: float, actions: list[Action]) -> None:
        simulated.extend(Assigned(now, a.call_id, a.replica_id) for a in actions if isinstance(a, Assign))

    world = recorded.world(recorded.fleet, recorded.head.policy, recorded.runs, recorded.head.seed, watch)
    outcomes = world.play()
    names = _same_place([one.replica for one in recorded.assigned], [one.replica for one in simulated])
    place = {one.call_id: (i, one.replica) for i, one in enumerate(simulated)}
    pairs = [(one, *place[one.call_id]) for one in recorded.assigned if one.call_id in place]
    same = sum(names.get(one.replica) == replica for one, _, replica in pairs)
    gaps = sorted(
        later.at - one.at for i, (one, at, _) in enumerate(pairs) for later, other, _ in pairs[i + 1 :] if other < at
    )
    count = len(pairs)
    return Agreement(
        calls=count,
        same_replica=same / count,
        swapped=len(gaps) / max(count * (count - 1) / 2, 1),
        swapped_p99_s=gaps[int(0.99 * (len(gaps) - 1))] if gaps else 0.0,
        swapped_most_s=gaps[-1] if gaps else 0.0,
        goodput_recorded=measure(recorded.fleet, recorded.outcomes).goodput,
        goodput_simulated=measure(recorded.fleet, outcomes).goodput,
    )


def _same_place(recorded: Sequence[str], simulated: Sequence[str]) -> dict[str, str]:
    """Recorded names to simulated ones, which are in the same order by model, accelerator and number."""
    return dict(zip(sorted(set(recorded)), sorted(set(simulated)), strict=False))
