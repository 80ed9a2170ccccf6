"""Slack: late binding by what a run has left, so that those that can be in time are. The default.

**Why choose it.** Under overload a router that binds at once makes every run equally late. This one lets the
runs be in time that still can be, serves the others when there is room, and is as quick as `greedy` when idle.
**Inputs.** For each call: the deadline of its run, the expected critical path after it and its own expected
execution, from learnt lengths and branch odds. For each replica: its speed (a step-time law where a profile is
known, else a latency figure) and its load.
**What it does.** A call is held centrally and bound when a replica has room, by priority, runs under way before fresh
ones and then least latest start first (deadline - critical path after it - own execution). A run under way that has
more than half of its objective to spare, and much more than it needs, is served as a fresh one.
It goes to the replica that ends it first among those that end it in time.
If only a busy replica can still be in time, it waits for that one, as long as that is so, and lets others pass. If none
can, it is *parked* behind all that can, or rejected if the run asks for that.
Parked calls, and those without an SLO, are background: they take what urgent calls can spare, see `policy.background`.
Where calls run one at a time on few cards, it looks ahead: the runs under way and those that wait are placed on the
cards in a few orders, the order with most runs in time wins, of equal ones the one that answers soonest, and what
starts now in it is started. So a card may stay idle for the moment that plain code of a run takes, rather than be given
away. It is worked out anew at each event.
On engines that batch, slots are kept for runs that have begun: as large a share as of their calls came too late lately,
a quarter at most. A run that is let in and lost half-way has cost others their time. Background calls that run
there do not count against fresh ones.
Where cheap runs of a tenant are lost, those that take more of the cards come after them and leave them slots, as many
as these losses ask for, see `policy.price`: so more runs are in time.
Of tenants, those that were given more card time for their weight than the least served other are ahead: their fresh
runs come after those of the others, and on engines that batch only where typical urgent calls are in time beside them.
Where the engine that served a run has more of the next prompt in its cache than others, as learnt from what engines
report, a call is expected to take so much less there.
The order is handed to engines that take priorities.
**Configuration.** None.
**Trade-offs.** A replica may stay idle for a moment although parked calls wait. It needs deadlines to be of use,
and estimates: with wrong ones it parks too early or too late. Under overload a tenant's long runs are late sooner than
its short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from dask_fmware.policy.background import ALL_BUSY, Background
from dask_fmware.policy.estimate import execution_s, expected_s
from dask_fmware.policy.kinds import RankedReplicas, candidates
from dask_fmware.policy.lookahead import LookAhead
from dask_fmware.policy.outlook import JobCall, Outlook, Plan
from dask_fmware.policy.price import Prices
from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, Rank, ReplicaView, Wait
from dask_fmware.policy.typical import Typical, open_slots

__all__ = ["Slack"]

FOR_BEGUN = 0.25  # most of a batch that is kept for calls of runs under way
LONG = 0.5, 50.0  # of its objective, and times what is left of its path: more to spare than both has long
URGENT = 0.0  # calls that can be in time: before those `BEHIND`, in the order of service
BEGUN, FRESH = 0.0, 1.0  # among urgent ones of a priority
LATER = "only a busy replica can still be in time"
LEAST_S = 0.001  # after which a call that waits for that is asked for again at the earliest


class Slack:
    """Least slack first, bound late; what is lost gives way."""

    name = "slack"

    def __init__(self) -> None:
        self._typical = Typical()
        self._prices = Prices()
        self._lost: dict[str, float] = {}  # model -> share of calls of runs under way that came too late lately
        self._ahead = LookAhead(_cost)
        self._plan: Plan | None = None  # for the decisions of this moment
        self._background = Background(self.rank, self._typical, self._ahead)
        self._state: tuple[RankedReplicas | None, int, float] = None, 0, 0.0  # replicas as `_looks` saw them
        self._looks: dict[tuple[object, ...], tuple[float, str, float, bool, float]] = {}

    # -- order -----------------------------------------------------------------------------------

    def order(self, call: CallView) -> tuple[float, ...]:
        """Those that can be in time before the others, by priority; runs under way, fresh ones; least latest start."""
        due = call.due
        if due is None or call.parked:
            return self._background.order(call)
        can_be_in_time = due - call.runnable_at >= call.own_s  # else its run is lost, and it is about to be parked
        if can_be_in_time:
            self._typical.came(call, due)
            self._background.came(call)
        latest_start = due - call.own_s
        if call.begun:
            stage = FRESH if _has_long(call, latest_start) else BEGUN
            return (URGENT, -call.priority, stage, call.excess > 0.0, latest_start)
        price = self._prices.of(call)
        price.came(call.run_s)
        behind_s = price.level * price.relative(call.run_s) * (due - call.submitted)
        return (URGENT, -call.priority, FRESH, call.excess > 0.0, latest_start + behind_s)

    def rank(self, replica: ReplicaView) -> Rank:
        """Replicas with room first, then those that have room soonest; emptier ones first."""
        load = replica.outstanding / replica.slots
        return (
            not replica.has_room,
            replica.slot_free_at,
            load,
            replica.card_outstanding,
            replica.name,
            replica.replica_id,
        )

    # -- plan ------------------------------------------------------------------------------------

    def plan(self, outlook: Outlook, now: float) -> Plan | None:
        """Look ahead over all runs, where calls run one at a time."""
        self._plan = self._ahead.plan(outlook, now)
        if self._plan is not None:
            self._background.planned(len(self._plan.starts))
        return self._plan

    # -- turns -----------------------------------------------------------------------------------

    def turns(self) -> Sequence[tuple[float, ...]]:
        """Now and then background calls come before urgent ones."""
        return self._background.turns()

    def take_turn(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Bind | None:
        """Bind a background call that has waited for long."""
        return self._background.take_turn(call, replicas, now)

    # -- choice ----------------------------------------------------------------------------------

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Bind in time, wait for a replica that will be, park, or fill what nobody urgent wants."""
        due = call.due
        if due is None or call.parked:
            return self._background.choose(call, replicas, self._plan, now)
        return self._urgent(call, due, replicas, now)

    def _urgent(self, call: CallView, due: float, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Bind in time, wait as long as a replica will be, or park."""
        price = self._prices.of(call)
        kept = 0.0 if call.begun else max(min(FOR_BEGUN, self._lost.get(call.model, 0.0)), price.kept(call.run_s))
        best, replica_id, soonest, any_room, left_at = self._look(call, replicas, now, kept)
        in_time = best <= due
        fits = in_time and (self._plan is None or left_at <= self._plan.free_until.get(replica_id, inf))
        if self._plan is not None and not fits and (in_time or soonest <= due):
            latest = due - call.own_s
            if latest > now:
                return Wait("other runs can be in time meanwhile", lets_pass=True, until=latest)
            return Park("gave way to runs that can be in time together")
        if call.begun and (in_time or (any_room and soonest > due)):
            lost = self._lost.get(call.model, 0.0)
            self._lost[call.model] = lost + ((not in_time) - lost) / 50
        if in_time:
            self._background.bound(call, due, best)
            price.bound(call.run_s)
            return Bind(replica_id, f"ends {due - best:.3f} s before it is due, soonest of those with room", due)
        if not any_room:
            return ALL_BUSY
        if soonest <= due:  # as calls end that run there, it may become as quick as an idle one
            until = max(due - call.own_s, now + max(due - soonest, LEAST_S))
            return Wait(LATER, lets_pass=True, until=until)
        self._background.lost(call, due)
        if due - call.own_s >= call.runnable_at:
            price.lost(call.run_s)
        return Park(f"cannot be in time any more: {soonest - due:.3f} s late at best" if soonest < inf else "too late")

    def _look(
        self, call: CallView, replicas: Sequence[ReplicaView], now: float, kept: float
    ) -> tuple[float, str, float, bool, float]:
        """Return the earliest end on a replica that takes a call, its id, the earliest elsewhere, if any has room.

        The end of an answer is that of its first token. When it leaves that replica comes last, where runs are planned.

        Calls of equal lengths that are asked for in the same state of the replicas share one look.
        """
        cached, is_planned = (call.home, call.cached_tokens), self._plan is not None
        key = (
            call.prompt_tokens,
            call.output_tokens,
            call.answers,
            call.begun,
            call.excess > 0.0,
            kept,
            cached,
            is_planned,
        )
        if isinstance(replicas, RankedReplicas):
            seen, changes, at = self._state
            if seen is not replicas or changes != replicas.changes or at != now:
                self._state = replicas, replicas.changes, now
                self._looks.clear()
            elif (known := self._looks.get(key)) is not None:
                return known
        found = self._compare(call, candidates(call, replicas, self.rank), now, kept)
        if isinstance(replicas, RankedReplicas):
            self._looks[key] = found
        return found

    def _compare(
        self, call: CallView, replicas: Sequence[ReplicaView], now: float, kept: float
    ) -> tuple[float, str, float, bool, float]:
        rooms = [replica.has_room for replica in replicas]
        any_room = True in rooms
        if not any_room and self._plan is None:
            return inf, "", inf, False, inf  # it waits, whichever would be free first
        tokens = 0.0 if call.answers else call.output_tokens
        best, soonest, left_at = (inf, "", ""), inf, inf
        for replica, has_room in zip(replicas, rooms, strict=True):
            own_s = expected_s(call.prompt_at(replica.replica_id), tokens, replica, now)
            own_s = own_s + replica.delay_s if call.answers else own_s * replica.stretch
            free_at = replica.slot_free_at
            end = (free_at if free_at > now else now) + own_s
            if has_room and self._takes(call, replica, now, kept):
                if (found := (end, replica.name, replica.replica_id)) < best:
                    best, left_at = found, end
                    if call.answers and self._plan is not None:  # it keeps its slot to its last token
                        all_s = expected_s(call.prompt_at(replica.replica_id), call.output_tokens, replica, now)
                        left_at = end - own_s + all_s * replica.stretch
            elif end < soonest:
                soonest = end
        return best[0], best[2], soonest, any_room, left_at

    def _takes(self, call: CallView, replica: ReplicaView, now: float, kept: float) -> bool:
        """Whether a replica has room for a call in time, by what is kept for others."""
        if call.excess > 0.0 and replica.slots > 1:  # an idle replica is never waited for: nothing would end there
            return not replica.running or self._typical.spare(replica, now)
        return call.begun or replica.running - replica.background < open_slots(replica, kept)


def _has_long(call: CallView, latest_start: float) -> bool:
    """Whether a run under way has so much time that it loses nothing if fresh ones come before it."""
    of_objective, of_path = LONG
    spare_s = latest_start - call.runnable_at
    objective_s = latest_start + call.own_s + call.after_s - call.submitted
    return spare_s > of_objective * objective_s and spare_s > of_path * (call.own_s + call.after_s)


def _cost(call: JobCall, answers: bool, replica: ReplicaView) -> tuple[float, float]:
    """Seconds until a call has done what it is for, and until it ends, on an idle replica."""
    one_s = execution_s(replica.latency, call.prompt_tokens, call.output_tokens)
    whole_s = call.times * one_s
    if answers:
        first_s = whole_s - one_s + execution_s(replica.latency, call.prompt_tokens, 0.0)
        return first_s + replica.delay_s, whole_s + replica.delay_s
    return whole_s * replica.stretch, whole_s * replica.stretch
