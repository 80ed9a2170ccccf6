"""The replicas as the machine knows them: by id, by model, by card, and the immutable views that policies see.

It owns which attempt is where. What a slot is, `slots` knows; why a call is where it is, it does not know.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Unpack

from dask_fmware.model.messages import StepsTimed
from dask_fmware.model.replica import Replica
from dask_fmware.policy.kinds import RankedReplicas
from dask_fmware.policy.protocol import Rank, ReplicaView
from dask_fmware.profile.law import StepLaw
from dask_fmware.runtime.learning.corrections import Corrections
from dask_fmware.runtime.replicas.ahead import Ahead
from dask_fmware.runtime.replicas.slots import AttemptKey, Card, ReplicaState, Stay
from dask_fmware.runtime.replicas.standing import Changes, Standing
from dask_fmware.spec.deployment import Latency

__all__ = ["Fleet"]


MOST_DEAD = 1000  # names that are remembered
MOST_LANES = 8  # beyond, what is planned for one call at a time gains little over the choice of many replicas


def _unranked(view: ReplicaView) -> Rank:
    return (view.name, view.replica_id)


class Fleet:
    """All replicas, by id, by model and by card.

    Parameters
    ----------
    rank
        Order in which replicas of one kind are kept, a policy's `rank`.
    laws
        Step-time laws by model and accelerator, where profiles are known.
    """

    def __init__(
        self,
        rank: Callable[[ReplicaView], Rank] = _unranked,
        laws: Mapping[tuple[str, str], StepLaw] | None = None,
    ) -> None:
        self.corrections = Corrections(laws)
        self._rank = rank
        self._replicas: dict[str, ReplicaState] = {}
        self._by_model: dict[str, list[ReplicaState]] = defaultdict(list)
        self._cards: dict[str, Card] = {}
        self._slots: dict[AttemptKey, ReplicaState] = {}  # where it runs
        self.ahead = Ahead()
        self._shut: dict[str, ReplicaState] = {}  # replicas that take no calls until a time
        self.begun: list[AttemptKey] = []  # were ahead and have a slot by now; whoever writes it down takes them out
        self._offered: dict[str, RankedReplicas] = {}  # model -> replicas that take calls
        self._lanes: list[list[ReplicaState]] | None = None  # None: to be looked at again
        self._dead: dict[str, None] = {}  # names of replicas that died under calls and have not come back
        self._stale: dict[str, set[ReplicaState]] = {}  # model -> replicas whose view is out of date

    def __iter__(self) -> Iterator[ReplicaState]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def lanes(self) -> Sequence[Sequence[ReplicaState]]:
        """Replicas that take turns at one call at a time; nothing if some do not, or there are too many."""
        if self._lanes is None:
            self._lanes = []
            for card in self._cards.values():
                lanes = [card.replicas] if card.slots == 1 else [[state] for state in card.replicas]
                if card.slots != 1 and any(state.replica.slots != 1 for state in card.replicas):
                    self._lanes = []
                    break
                self._lanes += [list(lane) for lane in lanes]
            if len(self._lanes) > MOST_LANES:
                self._lanes = []
        return self._lanes

    def law(self, replica: Replica) -> StepLaw | None:
        """Return the step-time law of a replica as its steps have corrected it, or None where no profile is known."""
        known = self.corrections.of(replica)
        return known.law if known is not None else None

    def latency(self, replica: Replica) -> Latency:
        """Return the latency figure of a replica as its steps have corrected it."""
        known = self.corrections.of(replica)
        return known.latency if known is not None else replica.latency

    def get(self, replica_id: str) -> ReplicaState | None:
        """Return a replica, or None."""
        return self._replicas.get(replica_id)

    def hosts(self, model: str) -> bool:
        """Whether a replica of a model is known, draining ones included."""
        return bool(self._by_model.get(model))

    @property
    def models(self) -> list[str]:
        """Models with at least one replica."""
        return sorted(model for model, states in self._by_model.items() if states)

    def of(self, model: str) -> Sequence[ReplicaState]:
        """Replicas of a model, by name; draining ones included."""
        return self._by_model.get(model, ())

    def first(self, model: str) -> Replica | None:
        """Return a replica of a model, or None."""
        states = self._by_model.get(model)
        return states[0].replica if states else None

    def add(self, replica: Replica) -> ReplicaState:
        """Add a replica that is ready."""
        self._lanes = None
        card = self._cards.setdefault(replica.card, Card())
        if replica.card_slots is not None:
            card.slots = min(replica.card_slots, card.slots or replica.card_slots)
        is_on_trial = self._dead.pop(replica.name, 0) is None and replica.slots > 1
        pace = self.corrections.pace(replica.model, replica.accelerator)
        state = ReplicaState(replica, card, pace, Standing(is_on_trial=is_on_trial))
        self.corrections.add(replica)
        card.replicas.append(state)
        self._replicas[replica.replica_id] = state
        insort(self._by_model[replica.model], state, key=lambda s: (s.replica.name, s.replica.replica_id))
        self._offered.pop(replica.model, None)
        self.changed(state)
        return state

    def remove(self, replica_id: str, now: float) -> ReplicaState | None:
        """Take a replica out; the caller deals with its calls."""
        state = self._replicas.pop(replica_id, None)
        if state is None:
            return None
        self._shut.pop(replica_id, None)
        self.corrections.remove(state.replica)
        self._lanes = None
        for key in state.running:
            self._slots.pop(key, None)
        card, model = state.card, state.replica.model
        state.leave()
        card.replicas.remove(state)
        self._begin(card, now)
        self._by_model[model].remove(state)
        if not self._by_model[model]:
            del self._by_model[model]
        self._offered.pop(model, None)
        self._stale.pop(model, None)
        if not card.replicas:
            del self._cards[state.replica.card]
        for neighbour in card.replicas:
            self._dirty(neighbour)
        state.position = -1
        return state

    def distrust(self, name: str) -> None:
        """A replica of this name died under calls: when it comes back, it is on trial."""
        self._dead[name] = None
        if len(self._dead) > MOST_DEAD:
            del self._dead[next(iter(self._dead))]

    def trust(self, state: ReplicaState) -> None:
        """A replica has finished a call."""
        if state.standing.is_doubted:
            self.restate(state, is_on_trial=False, is_shaky=False)

    def restate(self, state: ReplicaState, **changes: Unpack[Changes]) -> None:
        """Let a replica stand otherwise to calls: the one door, which tells whoever keeps something by it."""
        was = state.standing
        standing = replace(was, **changes)
        if standing == was:
            return
        state.stand(standing)
        if standing.opens_at and not was.opens_at:
            self._shut[state.replica.replica_id] = state
        elif was.opens_at and not standing.opens_at:
            del self._shut[state.replica.replica_id]
        if standing.is_offered is not was.is_offered:
            self._offered.pop(state.replica.model, None)
        elif standing.is_single is not was.is_single:
            self.changed(state)

    def renew(self, state: ReplicaState, replica: Replica) -> None:
        """Take note that a replica knows its profile by now, and is otherwise the same."""
        state.replica = replica
        self.corrections.add(replica)
        for other in self._by_model[replica.model]:  # those of its kind may know theirs from it
            self.changed(other)

    def timed(self, message: StepsTimed, now: float) -> ReplicaState | None:
        """Learn from what a replica says of its steps; return the replica if its law has changed."""
        state = self._replicas.get(message.replica_id)
        if state is None:
            return None
        for call_id, attempt, tokens in message.tokens:
            stay = state.running.get((call_id, attempt))
            if stay is not None:
                stay.tokens, stay.seen_at = tokens, now
                if state.processed(stay, now):
                    self.changed(state)
        if not self.corrections.observe(message, now):
            return None
        self.changed(state)
        return state

    def take(self, state: ReplicaState, call_id: str, attempt: int, stay: Stay, now: float) -> None:
        """Give a slot of a replica to an attempt, or let it be ahead."""
        state.start(call_id, attempt, stay, now)
        self._slots[call_id, attempt] = state
        if stay.began_at is not None:
            self.ahead.begun(state, (call_id, attempt), stay)
        self.changed(state)

    @property
    def comes_at(self) -> float:
        """When a replica is expected to have room next without an event; infinity if that is not known of any."""
        ends = self.ahead.next_at
        return min(ends, *(state.standing.opens_at for state in self._shut.values())) if self._shut else ends

    def come(self, now: float) -> list[ReplicaState]:
        """Let the successors come of attempts that are about to end, and open what was shut until now.

        Returns the replicas that have room by it.
        """
        states = [state for state in self.ahead.come(now) if self._replicas.get(state.replica.replica_id) is state]
        for state in [state for state in self._shut.values() if not state.standing.is_shut(now)]:
            self.restate(state, opens_at=0.0)
            states.append(state)
        for state in states:
            self.changed(state)
        return states

    def shut(self, state: ReplicaState, until: float) -> None:
        """Offer a replica no more until a time, as its engine has no room for any call."""
        self.restate(state, opens_at=max(until, state.standing.opens_at))

    def opens_at(self, model: str) -> float:
        """When the first replica of a model that is shut opens again; infinity if none is."""
        return min((at for state in self.of(model) if (at := state.standing.opens_at)), default=inf)

    def late(self, state: ReplicaState) -> None:
        """An attempt could not wait for its slot any longer: attempts that should have ended let nobody come."""
        for key, stay in state.running.items():
            state.let_in(key, stay, False)
        self.changed(state)

    def _begin(self, card: Card, now: float) -> None:
        if card.ahead:
            for key in card.begin(now):
                state = self._slots[key]
                self.ahead.begun(state, key, state.running[key])
                self.begun.append(key)

    def holds(self, call_id: str, attempt: int) -> bool:
        """Whether an attempt has a slot."""
        return (call_id, attempt) in self._slots

    def stay(self, call_id: str, attempt: int) -> Stay | None:
        """Return what is known of an attempt on a replica, or None if it holds no slot."""
        state = self._slots.get((call_id, attempt))
        return state.running.get((call_id, attempt)) if state is not None else None

    def token_s(self, state: ReplicaState) -> float:
        """Seconds that the next token of each attempt on a replica takes."""
        law = self.law(state.replica)
        if law is None:
            return self.latency(state.replica).output_token_s
        return law.decode_s(len(state.running), state.context_tokens)

    def processed(self, call_id: str, attempt: int, now: float) -> None:
        """An attempt is known to have tokens."""
        state = self._slots.get((call_id, attempt))
        if state is not None and state.processed(state.running[call_id, attempt], now):
            self.changed(state)

    def free(
        self, call_id: str, attempt: int, now: float, *, has_tokens: bool = False
    ) -> tuple[ReplicaState, Stay] | None:
        """Free the slot of an attempt, which is known to have tokens or not.

        Returns its replica and its stay there; None if it holds no slot (its replica is gone, or said so before).
        """
        key = call_id, attempt
        state = self._slots.pop(key, None)
        if state is None:
            return None
        if has_tokens:
            state.processed(state.running[key], now)
        stay = state.end(key)
        self._begin(state.card, now)
        self.changed(state)
        return state, stay

    def changed(self, state: ReplicaState) -> None:
        """Take note that a replica's load is another, and with it that of its card."""
        self._dirty(state)
        if len(state.card.replicas) > 1:
            for neighbour in state.card.replicas:
                self._dirty(neighbour)

    def _dirty(self, state: ReplicaState) -> None:
        stale = self._stale.get(state.replica.model)
        if stale is None:
            self._stale[state.replica.model] = {state}
        else:
            stale.add(state)

    def views(self, model: str) -> RankedReplicas:
        """Replicas of a model that take calls, sorted by name."""
        offered = self._offered.get(model)
        if offered is None:
            states = self._by_model.get(model, ())
            for state in states:
                state.position = -1
            open_ = [state for state in states if state.standing.is_offered]
            for position, state in enumerate(open_):
                state.position = position
            offered = self._offered[model] = RankedReplicas(map(self.view, open_), self._rank)
            self._stale.pop(model, None)
        elif stale := self._stale.get(model):
            for state in stale:
                if state.position >= 0:
                    offered.replace(state.position, self.view(state))
            stale.clear()
        return offered

    def offered(self, state: ReplicaState) -> ReplicaView:
        """Return the view of a replica as policies were shown it last: without what was learnt since."""
        model = state.replica.model
        if state.position < 0 or state in self._stale.get(model, ()) or (offered := self._offered.get(model)) is None:
            return self.view(state)
        return offered[state.position]

    def view(self, state: ReplicaState) -> ReplicaView:
        """Return a replica as it is."""
        replica, card = state.replica, state.card
        known = self.corrections.of(replica)
        return ReplicaView(
            replica.replica_id,
            replica.name,
            replica.model,
            replica.accelerator,
            replica.card,
            state.slots,
            len(state.running) if state.is_single else state.busy,
            state.waiting,
            card.running - card.ending,
            replica.latency if known is None else known.latency,
            state.free_at,
            state.waiting_s if card.slots is None else sum(s.waiting_s for s in card.replicas),
            card.slots,
            None if known is None else known.law,
            state.prefill_until,
            state.context_tokens,
            card.waiting,
            state.pace.stretch.factor,
            state.background,
            state.pace.handover.delay_s,
            0 if state.is_single else state.ending,
            card.ending,
        )
