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
If only a busy replica can still be in time, it waits for that one and lets others pass. If none can, it is
*parked* behind all that can, or rejected if the run asks for that.
Where calls run one at a time on few cards, it looks ahead: the runs under way and those that wait are placed on the
cards in a few orders, the order with most runs in time wins, of equal ones the one that answers soonest, and what
starts now in it is started. So a card may stay idle for the moment that plain code of a run takes, rather than be given
away. It is worked out anew at each event.
On engines that batch, slots are kept for runs that have begun: as large a share as of their calls came too late lately,
a quarter at most. A run that is let in and lost half-way has cost others their time. Background calls that run
there do not count against fresh ones.
Where cheap runs of a tenant are lost, those that take more of the cards come after them and leave them slots, as many
as these losses ask for, see `policy.price`: so more runs are in time.
Parked calls, and those without an SLO, are background, by priority behind all that can be in time: they take a replica
when nothing urgent waits, and either no urgent call is likely to come meanwhile, or those that may come are in time all
the same: on engines that batch the typical urgent call beside them, or on another replica; where it looks ahead the
next runs, taken to be like the last ones at their rate; on more cards that serve one call each, as many stay idle as
urgent calls keep busy and twice the root of that. One start in twenty is theirs by right once they have waited for
long, one in a hundred of those without an SLO. Where urgent calls take each slot as it becomes free, beyond saturation,
it is one in a hundred for all of them together: late ones and those without an SLO of each priority in turn.
Of tenants, those that were given more card time for their weight than the least served other are ahead: their fresh
runs come after those of the others, and on engines that batch only where typical urgent calls are in time beside them.
How much of an engine that batches runs without an SLO may take besides is measured, see `policy.leeway`; beside urgent
calls they take the slowest replicas first.
Where the engine that served a run has more of the next prompt in its cache than others, as learnt from what engines
report, a call is expected to take so much less there.
Where twenty urgent calls in a row are parked, they need no replica either: what is believed of its pace may be wrong.
The order is handed to engines that take priorities.
**Configuration.** None.
**Trade-offs.** A replica may stay idle for a moment although parked calls wait. It needs deadlines to be of use,
and estimates: with wrong ones it parks too early or too late. Under overload a tenant's long runs are late sooner than
its short ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from math import inf
from operator import itemgetter

from dask_fmware.policy.estimate import execution_s, expected_s
from dask_fmware.policy.kinds import RankedReplicas, candidates
from dask_fmware.policy.leeway import Leeway
from dask_fmware.policy.lookahead import LookAhead
from dask_fmware.policy.outlook import JobCall, Outlook, Plan
from dask_fmware.policy.price import Prices
from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, Rank, ReplicaView, Wait
from dask_fmware.policy.typical import Typical, open_slots, without_background

__all__ = ["Slack"]

REMEMBERED = 16  # urgent calls whose arrivals tell the rate of the next
PATIENCE = 10.0  # objectives that a call is parked before it has a right to a turn
RIGHT = 20  # urgent starts for one such turn
RIGHT_OF_JOBS = 100  # the same for a call without an SLO, and for any where urgent calls take each slot
MOST_KINDS = 100  # of background calls, by priority, that are remembered
HOPELESS = 20  # urgent calls parked in a row: they need no replica, and only what runs can show that they are misjudged
EVEN_ODDS = 0.7  # expected urgent arrivals at which one comes as likely as not
FOR_BEGUN = 0.25  # most of a batch that is kept for calls of runs under way
ALL = ""  # urgent calls of all models, which count where models share the slots of a card
LONG = 0.5, 50.0  # of its objective, and times what is left of its path: more to spare than both has long
URGENT, BEHIND = 0.0, 1.0  # calls that can be in time, and the others: first of all, in the order of service
BEGUN, FRESH = 0.0, 1.0  # among urgent ones of a priority
LATE, JOB = 0.0, 1.0  # among those behind of a priority
ALL_BUSY = Wait("all replicas are busy")
LATER = Wait("only a busy replica can still be in time", lets_pass=True)


class Slack:
    """Least slack first, bound late; what is lost gives way."""

    name = "slack"

    def __init__(self) -> None:
        self._arrivals: defaultdict[str, deque[float]] = defaultdict(_latest)  # model -> of urgent calls; "": of all
        self._typical = Typical()
        self._lost: dict[str, float] = {}  # model -> share of calls of runs under way that came too late lately
        self._leeway: dict[str, Leeway] = defaultdict(Leeway)  # model -> of calls without an objective
        self._prices = Prices()
        self._starts = 0  # of urgent calls
        self._turned: dict[tuple[float, float], int] = {}  # kind of background calls -> of these, when it had its turn
        self._turned_at = 0  # of these, when one came before urgent calls
        self._in_vain: Counter[str] = Counter()  # model -> urgent calls that were parked since one could be in time
        self._ahead = LookAhead(_cost)
        self._plan: Plan | None = None  # for the decisions of this moment
        self._state: tuple[RankedReplicas | None, int, float] = None, 0, 0.0  # replicas as `_looks` saw them
        self._looks: dict[tuple[object, ...], tuple[float, str, float, bool]] = {}

    # -- order -----------------------------------------------------------------------------------

    def order(self, call: CallView) -> tuple[float, ...]:
        """Those that can be in time before the others, by priority; runs under way, fresh ones; least latest start."""
        due = call.due
        if due is None or call.parked:
            kind = _kind(call)
            if kind not in self._turned:
                self._turned[kind] = self._starts
                if len(self._turned) > MOST_KINDS:
                    del self._turned[min(self._turned, key=self._turned.__getitem__)]
            return (
                (BEHIND, *kind, call.excess, call.runnable_at) if due is None else (BEHIND, *kind, 0.0, call.submitted)
            )
        can_be_in_time = due - call.runnable_at >= call.own_s  # else its run is lost, and it is about to be parked
        if can_be_in_time:
            self._typical.came(call, due)
            for seen in (self._arrivals[call.model], self._arrivals[ALL]):
                if not seen or call.runnable_at > seen[-1]:
                    seen.append(call.runnable_at)
        latest_start = due - call.own_s
        if call.begun:
            stage = FRESH if _has_long(call, latest_start) else BEGUN
            return (URGENT, -call.priority, stage, float(call.excess > 0.0), latest_start)
        price = self._prices.of(call)
        price.came(call.run_s)
        behind_s = price.level * price.relative(call.run_s) * (due - call.submitted)
        return (URGENT, -call.priority, FRESH, float(call.excess > 0.0), latest_start + behind_s)

    def rank(self, replica: ReplicaView) -> Rank:
        """Replicas with room first, then those that have room soonest; emptier ones first."""
        load = replica.outstanding / replica.slots
        return (
            not replica.has_room,
            replica.slot_free_at,
            load,
            replica.card_running,
            replica.name,
            replica.replica_id,
        )

    # -- plan ------------------------------------------------------------------------------------

    def plan(self, outlook: Outlook, now: float) -> Plan | None:
        """Look ahead over all runs, where calls run one at a time."""
        self._plan = self._ahead.plan(outlook, now)
        if self._plan is not None and self._plan.starts:
            self._starts += len(self._plan.starts)
            self._in_vain.clear()
        return self._plan

    # -- turns -----------------------------------------------------------------------------------

    def turns(self) -> Sequence[tuple[float, ...]]:
        """Now and then background calls come before urgent ones: their kinds in turn, of each the first."""
        if self._starts - self._turned_at < RIGHT_OF_JOBS:
            return ()
        return [(BEHIND, *kind) for kind, at in sorted(self._turned.items(), key=itemgetter(1))]

    def take_turn(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Bind | None:
        """Bind a background call that has waited for long."""
        if not self._has_right(call, now):
            return None
        room = [replica for replica in candidates(call, replicas, self.rank) if replica.has_room]
        if not room:
            return None
        self._turned_at = self._turned[_kind(call)] = self._starts
        return Bind(room[0].replica_id, "it has waited for long", inf)

    # -- choice ----------------------------------------------------------------------------------

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Bind in time, wait for a replica that will be, park, or fill what nobody urgent wants."""
        due = call.due
        if due is None or call.parked:
            return self._background(call, replicas, now)
        price = self._prices.of(call)
        kept = 0.0 if call.begun else max(min(FOR_BEGUN, self._lost.get(call.model, 0.0)), price.kept(call.run_s))
        best, replica_id, soonest, any_room = self._look(call, replicas, now, kept)
        in_time = best <= due
        fits = in_time and (self._plan is None or best <= self._plan.free_until.get(replica_id, inf))
        if self._plan is not None and not fits and (in_time or soonest <= due):
            latest = due - call.own_s
            if latest > now:
                return Wait("other runs can be in time meanwhile", lets_pass=True, until=latest)
            return Park("gave way to runs that can be in time together")
        if call.begun and (in_time or (any_room and soonest > due)):
            lost = self._lost.get(call.model, 0.0)
            self._lost[call.model] = lost + ((not in_time) - lost) / 50
        if in_time:
            self._starts += 1
            self._in_vain[call.model] = 0
            self._leeway[call.model].bound(call, due, best)
            price.bound(call.run_s)
            return Bind(replica_id, f"ends {due - best:.3f} s before it is due, soonest of those with room", due)
        if not any_room:
            return ALL_BUSY
        if soonest <= due:
            return LATER
        self._in_vain[call.model] += 1
        self._leeway[call.model].lost(call, due)
        if due - call.own_s >= call.runnable_at:
            price.lost(call.run_s)
        return Park(f"cannot be in time any more: {soonest - due:.3f} s late at best" if soonest < inf else "too late")

    def _look(
        self, call: CallView, replicas: Sequence[ReplicaView], now: float, kept: float
    ) -> tuple[float, str, float, bool]:
        """Return the earliest end on a replica that takes a call, its id, the earliest elsewhere, and if any has room.

        Calls of equal lengths that are asked for in the same state of the replicas share one look.
        """
        cached = call.home, call.cached_tokens
        key = (call.prompt_tokens, call.output_tokens, call.answers, call.begun, call.excess > 0.0, kept, cached)
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
    ) -> tuple[float, str, float, bool]:
        rooms = [replica.has_room for replica in replicas]
        any_room = True in rooms
        if not any_room and self._plan is None:
            return inf, "", inf, False  # it waits, whichever would be free first
        tokens = 0.0 if call.answers else call.output_tokens
        best, soonest = (inf, "", ""), inf
        for replica, has_room in zip(replicas, rooms, strict=True):
            own_s = expected_s(call.prompt_at(replica.replica_id), tokens, replica, now)
            own_s = own_s + replica.delay_s if call.answers else own_s * replica.stretch
            free_at = replica.slot_free_at
            end = (free_at if free_at > now else now) + own_s
            if has_room and self._takes(call, replica, now, kept):
                best = min(best, (end, replica.name, replica.replica_id))
            elif end < soonest:
                soonest = end
        return best[0], best[2], soonest, any_room

    def _takes(self, call: CallView, replica: ReplicaView, now: float, kept: float) -> bool:
        """Whether a replica has room for a call in time, by what is kept for others."""
        if call.excess > 0.0 and replica.slots > 1:  # an idle replica is never waited for: nothing would end there
            return not replica.running or self._typical.spare(replica, now)
        return call.begun or replica.running - replica.background < open_slots(replica, kept)

    def _background(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Fill a replica that no urgent call needs: the quickest, or of a job beside urgent calls the slowest."""
        room = [replica for replica in candidates(call, replicas, self.rank) if replica.has_room]
        if not room:
            return ALL_BUSY
        spent = []
        for replica in room:
            wait_s = max(0.0, replica.slot_free_at - now)
            spent_s = wait_s + expected_s(call.prompt_at(replica.replica_id), call.output_tokens, replica, now)
            spent.append((spent_s, replica.name, replica.replica_id, replica))
        least_s = min(spent)[0]
        seen = self._arrivals[ALL if any(r.card_slots is not None for r in room) else call.model]
        stands_back = call.due is None and _rate(seen, now) * least_s > EVEN_ODDS
        for spent_s, _, replica_id, replica in sorted(spent, reverse=stands_back):
            if self._plan is not None and now + spent_s > self._plan.free_until.get(replica_id, inf):
                continue
            if self._spares(call, replica, spent_s, room, now, seen, replicas):
                return Bind(replica_id, "no urgent call needs the replica", inf)
        if self._has_right(call, now):
            self._turned[_kind(call)] = self._starts
            replica_id = max(spent)[2] if stands_back else room[0].replica_id
            return Bind(replica_id, "it has waited for long", inf)
        return Wait("an urgent call is likely to come meanwhile", until=now + _pause_s(seen, least_s, now))

    def _spares(
        self,
        call: CallView,
        replica: ReplicaView,
        spent_s: float,
        room: Sequence[ReplicaView],
        now: float,
        seen: Sequence[float],
        replicas: Sequence[ReplicaView],
    ) -> bool:
        """Whether urgent calls can do without a slot of a replica for so long: none is likely, or all stay in time."""
        if _rate(seen, now) * spent_s <= EVEN_ODDS or self._in_vain[call.model] >= HOPELESS:
            return True
        if self._plan is not None:
            return self._ahead.leaves_room(replica.replica_id, spent_s, now)
        if replica.slots == 1:
            return self._typical.spare_one(replica, replicas, _rate(seen, now))
        if call.due is not None:  # a run that is late stands back for the others, but not for a job that fills up
            return self._typical.spare(without_background(replica), now)
        leeway = self._leeway[call.model]
        return self._typical.spare(replica, now, leeway.kept, leeway.spare, room)

    def _has_right(self, call: CallView, now: float) -> bool:
        """One start in so many is for background calls that have waited for long."""
        objective_s = call.deadline - call.submitted if call.deadline is not None else 1.0
        right = RIGHT if call.due is not None else RIGHT_OF_JOBS
        has_waited = now - call.runnable_at >= PATIENCE * objective_s
        return has_waited and self._starts - self._turned.get(_kind(call), 0) >= right


def _kind(call: CallView) -> tuple[float, float]:
    """What background calls have in common that are served in one order."""
    return -call.priority, JOB if call.due is None else LATE


def _latest() -> deque[float]:
    return deque(maxlen=REMEMBERED)


def _has_long(call: CallView, latest_start: float) -> bool:
    """Whether a run under way has so much time that it loses nothing if fresh ones come before it."""
    of_objective, of_path = LONG
    spare_s = latest_start - call.runnable_at
    objective_s = latest_start + call.own_s + call.after_s - call.submitted
    return spare_s > of_objective * objective_s and spare_s > of_path * (call.own_s + call.after_s)


def _pause_s(seen: Sequence[float], spent_s: float, now: float) -> float:
    """Seconds until no urgent call is likely within `spent_s`, if none comes meanwhile; a mean, if that is over."""
    mean_s = _mean_s(seen)
    quiet_s = seen[-1] + 2.0 * mean_s + 1.001 * spent_s / EVEN_ODDS - now if seen else 0.0
    return quiet_s if quiet_s > 0.0 else max(mean_s, 0.1)


def _rate(seen: Sequence[float], now: float) -> float:
    """Urgent calls a second, lately; what a pause is longer than usual counts as the time between two."""
    if len(seen) < 2:
        return 0.0
    mean_s = _mean_s(seen)
    return 1.0 / max(mean_s, now - seen[-1] - 2.0 * mean_s, 1e-9)


def _mean_s(seen: Sequence[float]) -> float:
    """Mean time between the latest urgent calls."""
    return (seen[-1] - seen[0]) / (len(seen) - 1) if len(seen) > 1 else 0.0


def _cost(call: JobCall, answers: bool, replica: ReplicaView) -> tuple[float, float]:
    """Seconds until a call has done what it is for, and until it ends, on an idle replica."""
    whole_s = execution_s(replica.latency, call.prompt_tokens, call.output_tokens)
    if answers:
        first_s = execution_s(replica.latency, call.prompt_tokens, 0.0)
        return first_s + replica.delay_s, whole_s + replica.delay_s
    return whole_s * replica.stretch, whole_s * replica.stretch
