"""A policy as the machine asks it: what it raises, or answers that is no answer, is an error with its name.

A policy may be anybody's. What one raised in the middle of an event would leave the call of that event where it is, and
an order with a NaN in it is none: calls would wait for ever, also those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from reprlib import Repr
from typing import Any, TypeVar

from dask_fmware.errors import PolicyFaultError
from dask_fmware.policy.keys import Keys, is_number
from dask_fmware.policy.outlook import Outlook, Plan, Planner, Start
from dask_fmware.policy.protocol import Bind, CallView, Choice, Park, Policy, Rank, ReplicaView, TakesTurns, Wait

__all__ = ["CheckedPolicy"]

T = TypeVar("T")
LEAST: Rank = ()  # a rank that can be compared with any
RAISED = (Exception, SystemExit)
MOST_UNRANKED = 1000  # replicas that are remembered
SHOWN = Repr()
SHOWN.maxother = SHOWN.maxstring = 200  # characters of an answer in an error
SHOWN.maxtuple = 20


class CheckedPolicy:
    """Asks a policy, and holds it to its protocol: each method returns a sound answer or raises `PolicyFaultError`.

    Parameters
    ----------
    policy
        Who is asked.
    """

    def __init__(self, policy: Policy) -> None:
        self.asked: Any = policy  # it may have more methods than any policy has
        self.name = policy.name
        self.takes_turns = isinstance(policy, TakesTurns)
        self.plans = isinstance(policy, Planner)
        self._orders, self._ranks = Keys(has_texts=False), Keys(has_texts=True)
        self._unranked: dict[str, PolicyFaultError] = {}  # replica -> what its rank was instead of one

    # -- keys ------------------------------------------------------------------------------------

    def order(self, call: CallView) -> tuple[float, ...]:
        """Return the place of a call among those that wait."""
        try:
            key = self.asked.order(call)
        except RAISED as raised:
            raise self._raised("order", raised) from raised
        if why := self._orders.wrong(key):
            raise self._answered("order", key, why)
        return key  # type: ignore[no-any-return]

    def rank(self, replica: ReplicaView) -> Rank:
        """Return the rank of a replica.

        It never raises, since many look at replicas that decide nothing: a replica without a sound one is the least of
        all, and `choose` raises as long as it is among those to choose from.
        """
        try:
            key = self.asked.rank(replica)
        except RAISED as raised:
            return self._unsound(replica, self._raised("rank", raised), raised)
        if why := self._ranks.wrong(key):
            return self._unsound(replica, self._answered("rank", key, why))
        if self._unranked:
            self._unranked.pop(replica.replica_id, None)
        return key  # type: ignore[no-any-return]

    def _unsound(self, replica: ReplicaView, fault: PolicyFaultError, cause: BaseException | None = None) -> Rank:
        fault.__cause__ = cause
        self._unranked[replica.replica_id] = fault
        if len(self._unranked) > MOST_UNRANKED:
            del self._unranked[next(iter(self._unranked))]
        return LEAST

    # -- choices ---------------------------------------------------------------------------------

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Return what is to become of a call."""
        if self._unranked:
            for replica in replicas:
                if (fault := self._unranked.get(replica.replica_id)) is not None:
                    raise PolicyFaultError(*fault.args) from fault.__cause__  # one raised again and again would grow
        try:
            choice = self.asked.choose(call, replicas, now)
        except RAISED as raised:
            raise self._raised("choose", raised) from raised
        if why := _unsound_choice(choice):
            raise self._answered("choose", choice, why)
        if call.parked and isinstance(choice, Park):
            raise self._answered("choose", choice, "but the call is parked already")
        return choice  # type: ignore[no-any-return]

    def turns(self) -> Sequence[tuple[float, ...]]:
        """Return where in the order calls stand whose turn it is; of a policy that takes turns."""
        places = self._asked("turns", lambda: tuple(self.asked.turns()))
        for place in places:
            if not isinstance(place, tuple) or not all(map(is_number, place)):
                raise self._answered("turns", place, "which is no tuple of numbers")
        return places

    def take_turn(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Bind | None:
        """Return the replica of a call whose turn it is; of a policy that takes turns."""
        choice = self._asked("take_turn", lambda: self.asked.take_turn(call, replicas, now))
        if choice is None:
            return None
        if not isinstance(choice, Bind):
            raise self._answered("take_turn", choice, "which is neither a Bind nor None")
        if why := _unsound_choice(choice):
            raise self._answered("take_turn", choice, why)
        return choice

    def plan(self, outlook: Outlook, now: float) -> Plan | None:
        """Return what is to start now; of a policy that plans."""
        plan: Plan | None = self._asked("plan", lambda: self.asked.plan(outlook, now))
        if plan is not None and (why := _unsound_plan(plan)):
            raise self._answered("plan", plan, why)
        return plan

    # -- faults ----------------------------------------------------------------------------------

    def _asked(self, method: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except RAISED as raised:
            raise self._raised(method, raised) from raised

    def _raised(self, method: str, raised: BaseException) -> PolicyFaultError:
        return PolicyFaultError(f"policy '{self.name}': {method} raised {type(raised).__name__}: {raised}")

    def _answered(self, method: str, answer: object, why: str) -> PolicyFaultError:
        return PolicyFaultError(f"policy '{self.name}': {method} answered {SHOWN.repr(answer)}, {why}")


def _unsound_choice(choice: object) -> str:
    """What is wrong with a choice; empty if nothing is."""
    if isinstance(choice, Bind):
        if type(choice.replica_id) is not str:
            return f"whose replica_id is a {type(choice.replica_id).__name__}"
        if choice.priority is not None and not is_number(choice.priority):
            return "whose priority is no number"
    elif isinstance(choice, Wait):
        if choice.until is not None and not is_number(choice.until):
            return "whose until is no number"
    elif not isinstance(choice, Park):
        return "which is no Bind, Wait or Park"
    return "" if isinstance(choice.reason, str) else f"whose reason is a {type(choice.reason).__name__}"


def _unsound_plan(plan: object) -> str:
    """What is wrong with a plan; empty if nothing is."""
    if not isinstance(plan, Plan):
        return "which is neither a Plan nor None"
    if plan.wake_at is not None and not is_number(plan.wake_at):
        return "whose wake_at is no number"
    for start in plan.starts:
        if not isinstance(start, Start) or type(start.replica_id) is not str or not is_number(start.priority):
            return "whose starts are not all sound"
    return ""
