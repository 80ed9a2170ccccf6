"""Least outstanding: the replica with the fewest unfinished calls on its card.

**Why choose it.** The best cheap heuristic: no profile, yet it adapts to speed, because slow replicas
keep their calls longer.
**Inputs.** Running and waiting calls of each replica and of its card, relative to slots.
**What it does.** Least outstanding calls for each slot; ties go to where more of them are about to end, then to the
card with less running on it, to the accelerator with the lower latency figure, then to the first name.
**Configuration.** None.
**Trade-offs.** It uses a slow idle card before a fast one with one call on it, and knows no deadline.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.policy.kinds import leaders
from dask_fmware.policy.protocol import Bind, CallView, Choice, Rank, ReplicaView

__all__ = ["LeastOutstanding"]


class LeastOutstanding:
    """The replica with the fewest unfinished calls."""

    name = "least_outstanding"

    def order(self, call: CallView) -> tuple[float, ...]:
        """First come, first served inside a priority."""
        return (-call.priority,)

    def rank(self, replica: ReplicaView) -> Rank:
        """By outstanding calls for each slot, those about to end among them, card load, speed and name."""
        return (
            replica.outstanding / replica.slots,
            -replica.ending / replica.slots,
            replica.card_outstanding,
            replica.latency.output_token_s,
            replica.name,
            replica.replica_id,
        )

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Pick the first by `rank`."""
        best = min(leaders(replicas, self.rank), key=self.rank)
        return Bind(best.replica_id, f"{best.outstanding} outstanding on {best.slots} slots is the least")
