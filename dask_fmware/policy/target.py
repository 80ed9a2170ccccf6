"""Target: the slowest replica that is still in time, the paper's second mode.

**Why choose it.** It keeps the fast cards free for calls that need them, by static budgets that a user
can look up before the run.
**Inputs.** A latency figure for each (model, accelerator), the load of each replica, and the budget of
the node: its share of the SLO in proportion to expected latency (speeds, learnt lengths), with what earlier nodes left.
**What it does.** Among the replicas with ``l_est`` within what is left of the budget the one with the
largest ``l_est`` (best fit), else the one with the least. Calls without an SLO go as in `greedy`. A call
is bound at once and waits in that replica's queue if it is full.
**Configuration.** `latency` of a placement in the deployment replaces the figure measured at start.
**Trade-offs.** Below saturation it is slower than `greedy` by design. A long queue on a fast card may be
the best fit, so a burst is packed behind it; under overload it is `greedy`.

Source: the paper, section 4.2, Algorithm 1 (target mode). As printed, its last line takes
``Min(costs_target, costs_greedy)``, which is always the global minimum: both modes would be one.
"""

from __future__ import annotations

from collections.abc import Sequence

from dask_fmware.policy.estimate import estimate, free_first
from dask_fmware.policy.kinds import leaders
from dask_fmware.policy.protocol import Bind, CallView, Choice, Rank, ReplicaView

__all__ = ["Target"]


class Target:
    """The replica that just fits the budget of the node."""

    name = "target"

    def order(self, call: CallView) -> tuple[float, ...]:
        """First come, first served inside a priority."""
        return (-call.priority,)

    def rank(self, replica: ReplicaView) -> Rank:
        """Of equally fast replicas, the one that is free first."""
        return free_first(replica)

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Pick the largest ``l_est`` within the budget, else the least."""
        costs = [(estimate(call, r, now), r) for r in leaders(replicas, self.rank)]
        left_s = 0.0 if call.budget_due is None else call.budget_due - now
        fits = [c for c in costs if c[0].l_est < left_s]
        if fits:
            cost, best = min(fits, key=lambda c: (-c[0].l_est, c[1].card_outstanding, c[1].name, c[1].replica_id))
            return Bind(best.replica_id, f"estimate {cost.l_est:.3f} s fits the {left_s:.3f} s of its budget best")
        cost, best = min(costs, key=lambda c: (c[0].l_est, c[1].card_outstanding, c[1].name, c[1].replica_id))
        why = "no budget" if call.budget_due is None else f"none within the {left_s:.3f} s of its budget"
        return Bind(best.replica_id, f"least estimate {cost.l_est:.3f} s ({why})")
