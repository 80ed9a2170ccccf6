"""Greedy: the replica with the least estimated latency, the paper's first mode.

**Why choose it.** Lowest latency while the cluster is below saturation; it knows that cards differ.
**Inputs.** A latency figure for each (model, accelerator) and the load of each replica:
``l_est = l_x + l_q + l_r``. The answer node is costed in time to first token, others in completion.
**What it does.** Least ``l_est``; ties go to the emptier card, then to the first name. A call is bound
at once and waits in that replica's queue if it is full.
**Configuration.** `latency` of a placement in the deployment replaces the figure measured at start.
**Trade-offs.** It hands the fast cards to calls that could afford a slow one, and under overload every
call is equally late.

Source: the paper, section 4.2, Algorithm 1 (greedy mode), in the reading of DESIGN.md, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.policy.estimate import estimate, free_first
from dask_fmware.policy.kinds import leaders
from dask_fmware.policy.protocol import Bind, CallView, Choice, Rank, ReplicaView

__all__ = ["Greedy"]


class Greedy:
    """The replica with the least estimated latency."""

    name = "greedy"

    def order(self, call: CallView) -> tuple[float, ...]:
        """First come, first served inside a priority."""
        return (-call.priority,)

    def rank(self, replica: ReplicaView) -> Rank:
        """Of equally fast replicas, the one that is free first."""
        return free_first(replica)

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Pick by ``l_est``."""
        costs = [(estimate(call, r, now), r) for r in leaders(replicas, self.rank)]
        cost, best = min(costs, key=lambda c: (c[0].l_est, c[1].card_outstanding, c[1].name, c[1].replica_id))
        return Bind(
            best.replica_id,
            f"least estimate {cost.l_est:.3f} s (own {cost.l_x:.3f}, queue {cost.l_q:.3f}, running {cost.l_r:.3f})",
        )
