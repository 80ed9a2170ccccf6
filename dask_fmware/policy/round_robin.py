"""Round robin: every replica of a model in its turn.

**Why choose it.** A baseline that needs no knowledge, and fair between equal replicas.
**Inputs.** The list of ready replicas.
**What it does.** The first replica after the one used last for this model, by name; a call is bound at
once and waits in that replica's queue if it is full.
**Configuration.** None.
**Trade-offs.** It is blind to load and to speed: on mixed cards the slow ones set the latency.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from dask_fmware.policy.protocol import Bind, CallView, Choice, Rank, ReplicaView

__all__ = ["RoundRobin"]


class RoundRobin:
    """Every replica of a model in its turn."""

    name = "round_robin"
    in_turn = True

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, str]] = {}  # model -> name and id of the replica used last

    def order(self, call: CallView) -> tuple[float, ...]:
        """First come, first served inside a priority."""
        return (-call.priority,)

    def rank(self, replica: ReplicaView) -> Rank:
        """No replica is better than another."""
        return (replica.name, replica.replica_id)

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Pick the replica whose name follows the last one."""
        last = self._last.get(call.model, ("", ""))
        position = bisect_right(replicas, last, key=lambda r: (r.name, r.replica_id))
        replica = replicas[position % len(replicas)]
        self._last[call.model] = replica.name, replica.replica_id
        return Bind(replica.replica_id, "next in turn")
