"""Background work under `slack`: calls of runs that are late or have no SLO, and what they may take.

They stand behind all calls that can be in time, by priority, and take a replica when nothing urgent waits, and either
no urgent call is likely to come meanwhile, or those that may come are in time all the same: on engines that batch the
typical urgent call beside them, or on another replica; where runs are planned ahead the next runs, taken to be like the
last ones at their rate; on more cards that serve one call each, as many stay idle as urgent calls keep busy and twice
the root of that. One start in twenty is theirs by right once they have waited for long, one in a hundred of those
without an SLO. Where urgent calls take each slot as it becomes free, beyond saturation, it is one in a hundred for all
of them together: late ones and those without an SLO of each priority in turn.
How much of an engine that batches runs without an SLO may take besides is measured, see `policy.leeway`; beside urgent
calls they take the slowest replicas first.
Where twenty urgent calls in a row are parked, they need no replica either: what is believed of its pace may be wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from math import inf
from operator import itemgetter

from dask_fmware.policy.estimate import expected_s
from dask_fmware.policy.kinds import candidates
from dask_fmware.policy.leeway import Leeway
from dask_fmware.policy.lookahead import LookAhead
from dask_fmware.policy.outlook import Plan
from dask_fmware.policy.protocol import Bind, CallView, Choice, Rank, ReplicaView, Wait
from dask_fmware.policy.typical import Typical, without_background

__all__ = ["ALL_BUSY", "BEHIND", "Background"]

REMEMBERED = 16  # urgent calls whose arrivals tell the rate of the next
PATIENCE = 10.0  # objectives that a call is parked before it has a right to a turn
RIGHT = 20  # urgent starts for one such turn
RIGHT_OF_JOBS = 100  # the same for a call without an SLO, and for any where urgent calls take each slot
MOST_KINDS = 100  # of background calls, by priority, that are remembered
HOPELESS = 20  # urgent calls parked in a row: they need no replica, and only what runs can show that they are misjudged
EVEN_ODDS = 0.7  # expected urgent arrivals at which one comes as likely as not
ALL = ""  # urgent calls of all models, which count where models share the slots of a card
BEHIND = 1.0  # first of all in the order of service; less for calls that can be in time
LATE, JOB = 0.0, 1.0  # among those behind of a priority
ALL_BUSY = Wait("all replicas are busy")


class Background:
    """The calls that stand behind: their order, their turns, and which replicas urgent calls can spare for them.

    Parameters
    ----------
    rank
        By which replicas of one kind are preferred.
    typical
        The typical urgent call.
    ahead
        Plans, where calls run one at a time.
    """

    def __init__(self, rank: Callable[[ReplicaView], Rank], typical: Typical, ahead: LookAhead) -> None:
        self._rank = rank
        self._typical = typical
        self._ahead = ahead
        self._arrivals: defaultdict[str, deque[float]] = defaultdict(_latest)  # model -> of urgent calls; "": of all
        self._leeway: dict[str, Leeway] = defaultdict(Leeway)  # model -> of calls without an objective
        self._in_vain: Counter[str] = Counter()  # model -> urgent calls that were parked since one could be in time
        self._starts = 0  # of urgent calls
        self._turned: dict[tuple[float, float], int] = {}  # kind of background calls -> of these, when it had its turn
        self._turned_at = 0  # of these, when one came before urgent calls

    # -- urgent calls, by which it goes ----------------------------------------------------------

    def came(self, call: CallView) -> None:
        """An urgent call has come that can be in time."""
        for seen in (self._arrivals[call.model], self._arrivals[ALL]):
            if not seen or call.runnable_at > seen[-1]:
                seen.append(call.runnable_at)

    def bound(self, call: CallView, due: float, ends: float) -> None:
        """An urgent call was given to a replica where it should have done its part at `ends`."""
        self._starts += 1
        self._in_vain[call.model] = 0
        self._leeway[call.model].bound(call, due, ends)

    def planned(self, starts: int) -> None:
        """So many urgent calls start by a plan."""
        if starts:
            self._starts += starts
            self._in_vain.clear()

    def lost(self, call: CallView, due: float) -> None:
        """An urgent call cannot be in time any more."""
        self._in_vain[call.model] += 1
        self._leeway[call.model].lost(call, due)

    # -- order and turns -------------------------------------------------------------------------

    def order(self, call: CallView) -> tuple[float, ...]:
        """By priority, late calls before those without an SLO, of which tenants that are ahead come last; by age."""
        kind = _kind(call)
        if kind not in self._turned:
            self._turned[kind] = self._starts
            if len(self._turned) > MOST_KINDS:
                del self._turned[min(self._turned, key=self._turned.__getitem__)]
        if call.due is None:
            return (BEHIND, *kind, call.excess, call.runnable_at)
        return (BEHIND, *kind, 0.0, call.submitted)

    def turns(self) -> Sequence[tuple[float, ...]]:
        """Now and then background calls come before urgent ones: their kinds in turn, of each the first."""
        if self._starts - self._turned_at < RIGHT_OF_JOBS:
            return ()
        return [(BEHIND, *kind) for kind, at in sorted(self._turned.items(), key=itemgetter(1))]

    def take_turn(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Bind | None:
        """Bind a call that has waited for long."""
        if not self._has_right(call, now):
            return None
        room = self._room(call, replicas)
        if not room:
            return None
        self._turned_at = self._turned[_kind(call)] = self._starts
        return Bind(room[0].replica_id, "it has waited for long", inf)

    # -- choice ----------------------------------------------------------------------------------

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], plan: Plan | None, now: float) -> Choice:
        """Fill a replica that no urgent call needs: the quickest, or of a job beside urgent calls the slowest."""
        room = self._room(call, replicas)
        if not room:
            return ALL_BUSY
        spent = []
        for replica in room:
            wait_s = max(0.0, replica.slot_free_at - now)
            spent_s = wait_s + expected_s(call.prompt_at(replica.replica_id), call.output_tokens, replica, now)
            spent.append((spent_s, replica.name, replica.replica_id, replica))
        least_s = min(spent)[0]
        seen = self._arrivals[ALL if any(r.card_slots is not None for r in room) else call.model]
        rate = _rate(seen, now)
        stands_back = call.due is None and rate * least_s > EVEN_ODDS
        for spent_s, _, replica_id, replica in sorted(spent, reverse=stands_back):
            if plan is not None and now + spent_s > plan.free_until.get(replica_id, inf):
                continue
            is_needed = rate * spent_s > EVEN_ODDS and self._in_vain[call.model] < HOPELESS
            if is_needed and plan is not None:
                is_needed = not self._ahead.leaves_room(replica_id, spent_s, now)
            elif is_needed:
                is_needed = not self._spares(call, replica, replicas, room, rate, now)
            if not is_needed:
                return Bind(replica_id, "no urgent call needs the replica", inf)
        if self._has_right(call, now):
            self._turned[_kind(call)] = self._starts
            replica_id = max(spent)[2] if stands_back else room[0].replica_id
            return Bind(replica_id, "it has waited for long", inf)
        return Wait("an urgent call is likely to come meanwhile", until=now + _pause_s(seen, least_s, now))

    def _room(self, call: CallView, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
        return [replica for replica in candidates(call, replicas, self._rank) if replica.has_room]

    def _spares(
        self,
        call: CallView,
        replica: ReplicaView,
        replicas: Sequence[ReplicaView],
        room: Sequence[ReplicaView],
        rate: float,
        now: float,
    ) -> bool:
        """Whether urgent calls that come at a rate, a second, stay in time without a slot of a replica."""
        if replica.slots == 1:
            return self._typical.spare_one(replica, replicas, rate)
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
