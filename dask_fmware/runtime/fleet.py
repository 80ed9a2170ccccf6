"""The replicas as the machine knows them: slots, queues, and the immutable views that policies see.

It owns the accounting of slots, of replicas and of their cards. It does not know why a call is where it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from dask_fmware.model.messages import StepsTimed
from dask_fmware.model.replica import Replica
from dask_fmware.policy.kinds import RankedReplicas
from dask_fmware.policy.protocol import Rank, ReplicaView
from dask_fmware.profile.correction import ConformalQuantile
from dask_fmware.profile.law import StepLaw
from dask_fmware.runtime.corrections import Corrections
from dask_fmware.runtime.handover import HandOver
from dask_fmware.runtime.queue import CallQueue, Ticket
from dask_fmware.spec.deployment import Latency

__all__ = ["Card", "Fleet", "Held", "ReplicaState"]


MOST_LANES = 8  # beyond, what is planned for one call at a time gains little over the choice of many replicas
STRETCH = 0.5  # quantile of measured over expected duration that policies reckon with


class Held:
    """What an attempt takes of its replica."""

    __slots__ = ("context_tokens", "expected_end", "is_background", "prompts_s", "seen_at", "tokens")

    def __init__(self, expected_end: float, context_tokens: int = 0, is_background: bool = False) -> None:
        self.expected_end = expected_end
        self.context_tokens = context_tokens  # on average while it runs
        self.is_background = is_background  # of a call without an objective, or of one that is parked
        self.tokens = 0  # generated, as its worker said last
        self.seen_at = 0.0  # when that was
        self.prompts_s = 0.0  # of all prompts that its replica was given up to its own


class Card:
    """One piece of hardware and the replicas on it."""

    __slots__ = ("replicas", "running", "slots", "waiting")

    def __init__(self) -> None:
        self.replicas: list[ReplicaState] = []
        self.running = 0
        self.waiting = 0
        self.slots: int | None = None  # attempts at once over all replicas


class ReplicaState:
    """One replica: attempts that hold its slots, calls that wait for one."""

    __slots__ = (
        "_ends", "_expected_s", "_queue", "background", "card", "context_tokens", "draining", "position",
        "prefill_until", "prompts_s", "replica", "running", "waiting", "waiting_s",
    )  # fmt: skip

    def __init__(self, replica: Replica, card: Card | None = None) -> None:
        self.replica = replica
        self.card = card or Card()
        self.draining = False
        self.position = -1  # among the views of its model; -1 while it is not offered
        self.running: dict[tuple[str, int], Held] = {}  # (call id, attempt)
        self.background = 0  # of the running
        self.prefill_until = 0.0  # when the prompts that it was given should be processed, as far as is known
        self.prompts_s = 0.0  # of all that it was given
        self.context_tokens = 0
        self.waiting = 0  # calls bound here that wait for a slot
        self.waiting_s = 0.0
        self._ends: list[tuple[float, tuple[str, int]]] = []  # a heap of expected ends; some attempts are over
        self._queue = CallQueue()
        self._expected_s: dict[str, float] = {}  # call id -> expected seconds, of those in the queue

    @property
    def free_slots(self) -> int:
        """Slots without an attempt, as far as the card has room for one."""
        card = self.card
        return self.replica.slots - len(self.running) if card.slots is None or card.running < card.slots else 0

    def start(self, call_id: str, attempt: int, held: Held) -> None:
        """Let an attempt take a slot."""
        self.running[call_id, attempt] = held
        self.context_tokens += held.context_tokens
        self.background += held.is_background
        heappush(self._ends, (held.expected_end, (call_id, attempt)))

    def given(self, held: Held, prompt_s: float, now: float) -> None:
        """Take note of one more prompt, which takes so long and is processed after those before it."""
        self.prompts_s = held.prompts_s = self.prompts_s + prompt_s
        self.prefill_until = max(self.prefill_until, now) + prompt_s

    def processed(self, held: Held, now: float) -> bool:
        """The prompt of an attempt has been processed, so at most those given after it are to be; True if that is news.

        Without, prompts that take less than the law says would add up to work that nobody does.
        """
        latest = now + self.prompts_s - held.prompts_s
        if latest >= self.prefill_until:
            return False
        self.prefill_until = latest
        return True

    def end(self, call_id: str, attempt: int) -> None:
        """Free the slot of an attempt."""
        held = self.running.pop((call_id, attempt))
        if not self.running:
            self.prefill_until = 0.0
        self.context_tokens -= held.context_tokens
        self.background -= held.is_background
        if len(self._ends) > 2 * len(self.running) + 16:
            self._ends = [(held.expected_end, key) for key, held in self.running.items()]
            heapify(self._ends)

    @property
    def next_end(self) -> float:
        """When the first of the running attempts is expected to end; 0 if none runs."""
        while self._ends:
            end_at, key = self._ends[0]
            held = self.running.get(key)
            if held is not None and held.expected_end == end_at:
                return end_at
            heappop(self._ends)
        return 0.0

    def enqueue(self, ticket: Ticket, expected_s: float) -> None:
        """Let a call wait for a slot of this replica."""
        self._queue.push(ticket)
        self.waiting += 1
        self.card.waiting += 1
        self._expected_s[ticket[2]] = expected_s
        self.waiting_s += expected_s

    def withdraw(self, call_id: str) -> bool:
        """Take a call out of the queue; False if it does not wait here."""
        if not self._queue.remove(call_id):
            return False
        self._left(call_id)
        return True

    def first_waiting(self) -> Ticket | None:
        """Ticket of the first call in the queue."""
        return self._queue.first()

    def next_waiting(self) -> str | None:
        """Take the first call out of the queue."""
        ticket = self._queue.pop()
        if ticket is None:
            return None
        self._left(ticket[2])
        return ticket[2]

    def evict(self) -> list[str]:
        """Empty the queue and return its calls in order."""
        calls = []
        while (call_id := self.next_waiting()) is not None:
            calls.append(call_id)
        return calls

    def _left(self, call_id: str) -> None:
        self.waiting -= 1
        self.card.waiting -= 1
        expected_s = self._expected_s.pop(call_id)
        self.waiting_s = self.waiting_s - expected_s if self._expected_s else 0.0  # no rounding is left behind


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
        self.handovers: dict[tuple[str, str], HandOver] = defaultdict(HandOver)
        self.stretches: dict[tuple[str, str], ConformalQuantile] = defaultdict(lambda: ConformalQuantile(STRETCH))
        self._replicas: dict[str, ReplicaState] = {}
        self._by_model: dict[str, list[ReplicaState]] = defaultdict(list)
        self._cards: dict[str, Card] = {}
        self._slots: dict[tuple[str, int], ReplicaState] = {}  # (call id, attempt) -> where it runs
        self._offered: dict[str, RankedReplicas] = {}  # model -> replicas that take calls
        self._lanes: list[list[ReplicaState]] | None = None  # None: to be looked at again
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
        state = ReplicaState(replica, card)
        self.corrections.add(replica)
        card.replicas.append(state)
        self._replicas[replica.replica_id] = state
        self._by_model[replica.model].append(state)
        self._by_model[replica.model].sort(key=lambda s: (s.replica.name, s.replica.replica_id))
        self._offered.pop(replica.model, None)
        self.changed(state)
        return state

    def remove(self, replica_id: str) -> ReplicaState | None:
        """Take a replica out; the caller deals with its calls."""
        state = self._replicas.pop(replica_id, None)
        if state is None:
            return None
        self.corrections.remove(state.replica)
        self._lanes = None
        for held in state.running:
            self._slots.pop(held, None)
        card, model = state.card, state.replica.model
        card.running -= len(state.running)
        card.replicas.remove(state)
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
            held = state.running.get((call_id, attempt))
            if held is not None:
                held.tokens, held.seen_at = tokens, now
                if state.processed(held, now):
                    self.changed(state)
        if not self.corrections.observe(message, now):
            return None
        self.changed(state)
        return state

    def take(self, state: ReplicaState, call_id: str, attempt: int, held: Held) -> None:
        """Give a slot of a replica to an attempt."""
        state.start(call_id, attempt, held)
        state.card.running += 1
        self._slots[call_id, attempt] = state
        self.changed(state)

    def holds(self, call_id: str, attempt: int) -> bool:
        """Whether an attempt has a slot."""
        return (call_id, attempt) in self._slots

    def held(self, call_id: str, attempt: int) -> Held | None:
        """Return what an attempt takes of its replica, or None if it holds no slot."""
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

    def free(self, call_id: str, attempt: int) -> ReplicaState | None:
        """Free the slot of an attempt; None if it holds none (its replica is gone, or said so before)."""
        state = self._slots.pop((call_id, attempt), None)
        if state is not None:
            state.end(call_id, attempt)
            state.card.running -= 1
            self.changed(state)
        return state

    def drain(self, state: ReplicaState, draining: bool) -> None:
        """Offer a replica no more, or again."""
        state.draining = draining
        self._offered.pop(state.replica.model, None)

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
            open_ = [state for state in states if not state.draining]
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
        replica, card, running = state.replica, state.card, state.running
        known = self.corrections.of(replica)
        free_at = state.next_end if len(running) >= replica.slots else 0.0
        if card.slots is not None and card.running >= card.slots:
            free_at = max(free_at, min((other.next_end for other in card.replicas if other.running), default=0.0))
        return ReplicaView(
            replica.replica_id,
            replica.name,
            replica.model,
            replica.accelerator,
            replica.card,
            replica.slots,
            len(running),
            state.waiting,
            card.running,
            replica.latency if known is None else known.latency,
            free_at,
            state.waiting_s if card.slots is None else sum(s.waiting_s for s in card.replicas),
            card.slots,
            None if known is None else known.law,
            state.prefill_until,
            state.context_tokens,
            card.waiting,
            self.stretches[replica.model, replica.accelerator].factor(0),
            state.background,
            self.handovers[replica.model, replica.accelerator].delay_s,
        )
