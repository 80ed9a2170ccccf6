"""Slack: late binding by what a run has left, so that those that can be in time are. The default.

**Why choose it.** Under overload a router that binds at once makes every run equally late. This one lets the
runs be in time that still can be, serves the others when there is room, and is as quick as `greedy` when idle.
**Inputs.** For each call: the deadline of its run, the expected critical path after it and its own expected
execution, from learnt lengths and branch odds. For each replica: its speed (a step-time law where a profile is
known, else a latency figure) and its load.
**What it does.** A call is held centrally and bound when a replica has room, least latest start first (deadline -
critical path after it - own execution). It goes to the replica that ends it first among those that end it in time.
If only a busy replica can still be in time, it waits for that one and lets others pass. If none can, it is
*parked* behind all that can, or rejected if the run asks for that.
Parked calls, and those without an SLO, are background: they take a replica when nothing urgent waits and the
chance that an urgent call finds it taken is below what their age allows; one start in twenty is
theirs by right once they have waited for long, so that nothing starves. The order is handed to engines that
take priorities.
**Configuration.** None; `weight` of a tenant sets its share among calls of equal urgency.
**Trade-offs.** A replica may stay idle for a moment although parked calls wait. It needs deadlines to be of use,
and estimates: with wrong ones it parks too early or too late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import exp, inf

from dask_fmware.policy.estimate import execution_s
from dask_fmware.policy.kinds import leaders
from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, Rank, ReplicaView, Wait

__all__ = ["Slack"]

REMEMBERED = 16  # urgent calls whose arrivals tell the rate of the next
PATIENCE = 10.0  # objectives after which a parked call accepts an even chance of being in the way
URGENT, PARKED, BACKGROUND = 0.0, 1.0, 2.0


class Slack:
    """Least slack first, bound late; what is lost gives way."""

    name = "slack"

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=REMEMBERED)  # of urgent calls

    # -- order -----------------------------------------------------------------------------------

    def order(self, call: CallView) -> tuple[float, ...]:
        """Priority; urgent before parked before background; least latest start, or first come."""
        due = call.due
        if due is None:
            return (-call.priority, BACKGROUND, call.runnable_at)
        if call.parked:
            return (-call.priority, PARKED, call.submitted)
        if not self._arrivals or call.runnable_at > self._arrivals[-1]:
            self._arrivals.append(call.runnable_at)
        return (-call.priority, URGENT, due - call.own_s)

    def rank(self, replica: ReplicaView) -> Rank:
        """Replicas with room first, then those that have room soonest; emptier ones first."""
        free_at = replica.slot_free_at if replica.is_full else 0.0
        load = replica.outstanding / replica.slots
        return (not replica.has_room, free_at, load, replica.card_running, replica.name, replica.replica_id)

    # -- choice ----------------------------------------------------------------------------------

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Bind in time, wait for a replica that will be, park, or fill what nobody urgent wants."""
        due = call.due
        if due is None or call.parked:
            return self._background(call, replicas, now)
        best: tuple[float, str, str] | None = None
        soonest = inf
        for replica in leaders(replicas, self.rank):
            own_s = _until_done_s(call, replica)
            if replica.has_room:
                end = now + own_s
                if end <= due and (best is None or (end, replica.name, replica.replica_id) < best):
                    best = end, replica.name, replica.replica_id
            else:
                soonest = min(soonest, max(now, replica.slot_free_at) + own_s)
        if best is not None:
            return Bind(best[2], f"ends {due - best[0]:.3f} s before it is due, soonest of those with room", due)
        if soonest <= due:
            return Wait("only a busy replica can still be in time", lets_pass=True)
        return Park(f"cannot be in time any more: {soonest - due:.3f} s late at best" if soonest < inf else "too late")

    def _background(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        room = [replica for replica in leaders(replicas, self.rank) if replica.has_room]
        if not room:
            return Wait("all replicas are busy")
        spent_s, best = min(
            ((execution_s(r.latency, call.prompt_tokens, call.output_tokens), r) for r in room),
            key=lambda found: (found[0], found[1].name, found[1].replica_id),
        )
        patience_s = PATIENCE * (call.deadline - call.submitted if call.deadline is not None else 1.0)
        accepted = 1.0 - exp(-max(now - call.runnable_at, 0.0) / patience_s)
        at_risk = 1.0 - exp(-self._rate(now) * spent_s)
        if at_risk > accepted:
            return Wait("an urgent call is likely to come meanwhile", until=now + 0.1 * patience_s)
        return Bind(best.replica_id, "no urgent call wants the replica", inf)

    def _rate(self, now: float) -> float:
        """Urgent calls a second, lately; it falls while none comes."""
        if len(self._arrivals) < 2:
            return 0.0
        return len(self._arrivals) / max(now - self._arrivals[0], 1e-9)


def _until_done_s(call: CallView, replica: ReplicaView) -> float:
    """Seconds until a call started now on a replica would have done what its node is for."""
    tokens = 0.0 if call.answers else call.output_tokens
    return execution_s(replica.latency, call.prompt_tokens, tokens)
