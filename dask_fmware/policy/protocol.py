"""What a routing policy is asked and what it may answer.

A policy proposes and the machine disposes: the machine asks when a call becomes runnable and again
when something changed for a call that waits, checks the answer against the contract (a ready replica
of the call's model, slots never exceeded) and performs it. Where a policy raises, or answers what is no
answer, the call that it was asked for fails with that; calls that were about to be decided do if it was
asked for no single one (`rank`, `turns`). How the cluster is comes with each question. What a policy keeps
is its own: a turn, random draws, or what the calls and plans that it was asked for have taught it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from dask_fmware.model.immutable import immutable
from dask_fmware.profile.law import StepLaw
from dask_fmware.spec.deployment import Latency

__all__ = ["Bind", "CallView", "Choice", "Draw", "Park", "Policy", "Rank", "ReplicaView", "TakesTurns", "Wait"]

Rank: TypeAlias = tuple[float | int | str, ...]


class Draw(Protocol):
    """A source of random numbers, given to a policy when it is made."""

    def __call__(self) -> float:
        """Return the next number in [0, 1)."""
        ...


@immutable
class CallView:
    """A call that needs a replica."""

    call_id: str
    workflow: str
    node: str
    model: str
    tenant: str
    priority: int  # higher first
    runnable_at: float  # when its inputs were complete
    deadline: float | None  # of its run, absolute; None without an SLO
    prompt_tokens: int  # expected; a lower bound until the engine has counted
    output_tokens: float  # expected, from the history of this node; max_tokens without one
    answers: bool  # its first token may be the run's, and is what the run is due with
    attempt: int  # 1 for the first try
    after_s: float = 0.0  # expected critical path of its run after it, on idle fast replicas
    own_s: float = 0.0  # expected of the call itself, on an idle replica of the fastest kind
    budget_due: float | None = None  # when its node is due by the static budgets of its workflow
    parked: bool = False  # it was found too late before
    submitted: float = 0.0  # when its run was
    begun: bool = False  # whether a call of its run has started before
    excess: float = 0.0  # card seconds by which its tenant was ahead of its share at submission
    home: str | None = None  # replica that served its run last, where its engine has more of the prompt than others
    cached_tokens: int = 0  # of the prompt, so many more
    run_s: float = 0.0  # expected of all calls of its run: seconds of a full card of the fastest kind

    def prompt_at(self, replica_id: str) -> int:
        """Prompt tokens that a replica is expected to process."""
        return self.prompt_tokens - self.cached_tokens if replica_id == self.home else self.prompt_tokens

    @property
    def due(self) -> float | None:
        """When it must have done what its node is for, so that the rest of its run can be in time."""
        return None if self.deadline is None else self.deadline - self.after_s


@immutable
class ReplicaView:
    """A ready replica of the call's model, with its load as the scheduler knows it."""

    replica_id: str
    name: str
    model: str
    accelerator: str
    card: str
    slots: int
    running: int  # attempts that hold a slot and are not about to end
    waiting: int  # calls bound to it that wait for a slot
    card_running: int  # attempts on all replicas of its card that are not about to end
    latency: Latency  # of its model on its accelerator
    slot_free_at: float  # when a slot is expected to be free, also where there is room; 0 if one is
    waiting_s: float  # expected work of the calls that wait, in seconds of one slot
    card_slots: int | None = None  # attempts at once on its card; None: as many as its replicas have slots
    law: StepLaw | None = None  # step-time law, where a profile is known
    prefill_until: float = 0.0  # when the prompts of its running attempts are expected to be processed
    context_tokens: int = 0  # expected KV tokens of all its running attempts
    card_waiting: int = 0  # calls that wait for a slot of any replica of its card
    stretch: float = 1.0  # measured over expected duration of calls on replicas like it, the median
    background: int = 0  # of the running attempts, those of runs without an objective
    delay_s: float = 0.0  # from a decision to the first token, beyond the engine's own time; a high quantile
    ending: int = 0  # attempts that are about to end: they count as work, and leave room for a successor
    card_ending: int = 0  # of all replicas of its card

    @property
    def outstanding(self) -> int:
        """Calls it has not finished: running, also those about to end, and waiting."""
        return self.running + self.ending + self.waiting

    @property
    def card_outstanding(self) -> int:
        """Attempts on all replicas of its card."""
        return self.card_running + self.card_ending

    @property
    def has_room(self) -> bool:
        """Whether a call bound now starts now, or when an attempt has ended that is about to."""
        if self.card_slots is not None and (self.card_running >= self.card_slots or self.card_waiting):
            return False
        return self.running < self.slots and not self.waiting

    @property
    def is_full(self) -> bool:
        """Whether a running attempt must end before another starts."""
        return self.running >= self.slots or (self.card_slots is not None and self.card_running >= self.card_slots)


@immutable
class Bind:
    """The call goes to this replica: at once if it has a free slot, else in its queue."""

    replica_id: str
    reason: str
    priority: float | None = None  # for the engine's own queue, lower first; None: by the priority of the run


@immutable
class Wait:
    """The call stays in the central queue until something changes."""

    reason: str
    lets_pass: bool = False  # whether calls behind it may be served meanwhile
    until: float | None = None  # when to ask again even if nothing has changed; a moment later if that is over


@immutable
class Park:
    """The call goes behind those that can still be in time; its place is asked for again, with `parked` set.

    One that is parked already cannot be parked.
    """

    reason: str


Choice: TypeAlias = Bind | Wait | Park


@runtime_checkable
class TakesTurns(Protocol):
    """A policy that now and then serves a call before those that its order puts first."""

    def turns(self) -> Sequence[tuple[float, ...]]:
        """Return where in its order such calls stand, each as the beginning of a key; empty: it is nobody's turn."""
        ...

    def take_turn(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Bind | None:
        """Pick one of `replicas` for the first call that waits at such a place, or let others be served first."""
        ...


class Policy(Protocol):
    """A rule that picks a replica.

    One that goes by the place of a replica in the list, and not by what replicas are and do, says so by an attribute
    ``in_turn = True``: the tests for policies (`dask_fmware.testing.conformance.policy`) ask for it.
    """

    @property
    def name(self) -> str:
        """Name in deployments and reports."""
        ...

    def order(self, call: CallView) -> tuple[float, ...]:
        """Key by which waiting calls are served, least first; ties go to the call that waits longer.

        Keys have one length, and no NaN.
        """
        ...

    def rank(self, replica: ReplicaView) -> Rank:
        """Key by which replicas of one kind are preferred, least first, for any call and at any time.

        The fleet keeps each kind in this order, so that `choose` looks at kinds and not at replicas. Keys have one
        length, with numbers, but no NaN, or texts at the same places.
        """
        ...

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """Pick one of `replicas` (never empty, sorted by name and id) for `call`, or let it wait."""
        ...
