"""Power of two choices: the less loaded of two replicas drawn at random, as Ray Serve routes.

**Why choose it.** To compare with Ray Serve. Its router samples two replicas, asks both for their
ongoing requests and takes the smaller; a replica at ``max_ongoing_requests`` is no candidate, and if
neither has room the request waits at the router.
**Inputs.** Running and waiting calls of two replicas.
**What it does.** As above. The bound on ongoing calls is that of Ray Serve, or the slots of the engine if
those are more: 5 in `power_of_two` (Ray 2.32, July 2024, and later), 100 in `power_of_two_100` (before).
**Configuration.** The seed of the draws (`router.seed`).
**Trade-offs.** Constant cost at any number of replicas and no herding; blind to speed and deadlines.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"; Ray Serve's
`PowerOfTwoChoicesRequestRouter`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.policy.kinds import leaders
from dask_fmware.policy.protocol import Bind, CallView, Choice, Draw, Rank, ReplicaView, Wait

__all__ = ["PowerOfTwo"]


class PowerOfTwo:
    """The less loaded of two replicas drawn at random.

    Parameters
    ----------
    draw
        Source of the draws.
    most_ongoing
        Bound on ongoing calls of one replica, unless it has more slots.
    name
        Name in deployments and reports.
    """

    def __init__(self, draw: Draw, most_ongoing: int = 5, name: str = "power_of_two") -> None:
        self.name = name
        self._draw = draw
        self._most_ongoing = most_ongoing

    def order(self, call: CallView) -> tuple[float, ...]:
        """First come, first served inside a priority."""
        return (-call.priority,)

    def rank(self, replica: ReplicaView) -> Rank:
        """Fewest ongoing calls, relative to the bound."""
        return (_ongoing(replica) - self._bound(replica), replica.name, replica.replica_id)

    def _bound(self, replica: ReplicaView) -> int:
        return max(self._most_ongoing, replica.slots)

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Draw two different replicas and take the one with fewer ongoing calls, if it is below its bound.

        Ray Serve repeats the draw with a backoff while both are full; here it is repeated at once a few
        times, then the emptiest is taken, and if that is full too the call waits.
        """
        count = len(replicas)
        for _ in range(3):
            first = int(self._draw() * count)
            second = int(self._draw() * (count - 1))
            second += second >= first
            drawn = [replicas[first]] if count == 1 else [replicas[first], replicas[second]]
            fits = [r for r in drawn if _ongoing(r) < self._bound(r)]
            if fits:
                best = min(fits, key=_ongoing)  # a tie goes to the one drawn first, as in Ray
                return Bind(best.replica_id, f"fewer ongoing calls ({_ongoing(best)}) of two drawn")
        best = min(leaders(replicas, self.rank), key=self.rank)
        if _ongoing(best) >= self._bound(best):
            return Wait(f"all {count} replicas are at their bound of ongoing calls")
        return Bind(best.replica_id, f"{_ongoing(best)} ongoing calls, after three draws of full replicas")


def _ongoing(replica: ReplicaView) -> int:
    """Calls that hold a slot and are not about to end, and those that wait for one."""
    return replica.running + replica.waiting
