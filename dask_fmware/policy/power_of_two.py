"""Power of two choices: the less loaded of two replicas drawn at random, as Ray Serve routes.

**Why choose it.** To compare with Ray Serve. Its router samples two replicas, asks both for their
ongoing requests and takes the smaller; a replica at ``max_ongoing_requests`` is no candidate, and if
neither has room the request waits at the router.
**Inputs.** Running and waiting calls of two replicas.
**What it does.** As above, with the engine's slots as the bound, so no call ever waits on a replica.
**Configuration.** The seed of the draws (`router.seed`).
**Trade-offs.** Constant cost at any number of replicas and no herding; blind to speed and deadlines.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"; Ray Serve's
`PowerOfTwoChoicesRequestRouter`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.policy.protocol import Bind, CallView, Choice, Draw, ReplicaView, Wait

__all__ = ["PowerOfTwo"]


class PowerOfTwo:
    """The less loaded of two replicas drawn at random."""

    name = "power_of_two"

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def order(self, call: CallView) -> tuple[float, ...]:
        """First come, first served inside a priority."""
        return (-call.priority,)

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Draw two different replicas and take the one with fewer ongoing calls, if it has room.

        Ray Serve repeats the draw with a backoff while both are full; here the call waits and is asked
        again when a slot frees, so replicas with room outside the draw are drawn from next.
        """
        open_ = [r for r in replicas if r.has_room]
        if not open_:
            return Wait(f"all {len(replicas)} replicas are at their bound of ongoing calls")
        first = int(self._draw() * len(replicas))
        second = int(self._draw() * (len(replicas) - 1))
        second += second >= first
        drawn = [replicas[first]] if len(replicas) == 1 else [replicas[first], replicas[second]]
        fits = [r for r in drawn if r.has_room] or [open_[int(self._draw() * len(open_))]]
        best = min(fits, key=lambda r: r.outstanding)  # of equals the one drawn first, not the first by name
        return Bind(best.replica_id, f"fewer ongoing calls ({best.outstanding}) of two drawn")
