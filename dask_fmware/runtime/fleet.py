"""The replicas as the machine knows them: slots, queues, and the immutable views that policies see.

It owns the accounting of slots. It does not know why a call is where it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from dask_fmware.model.replica import Replica
from dask_fmware.policy.protocol import ReplicaView
from dask_fmware.runtime.queue import CallQueue, Ticket

__all__ = ["Fleet", "ReplicaState"]


class ReplicaState:
    """One replica: attempts that hold its slots, calls that wait for one."""

    __slots__ = ("_expected_s", "_queue", "draining", "replica", "running", "waiting_s")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.draining = False
        self.running: dict[tuple[str, int], float] = {}  # (call id, attempt) -> expected end
        self.waiting_s = 0.0
        self._queue = CallQueue()
        self._expected_s: dict[str, float] = {}  # call id -> expected seconds, of those in the queue

    @property
    def waiting(self) -> int:
        """Calls bound here that wait for a slot."""
        return len(self._queue)

    @property
    def free_slots(self) -> int:
        """Slots without an attempt."""
        return self.replica.slots - len(self.running)

    def enqueue(self, ticket: Ticket, expected_s: float) -> None:
        """Let a call wait for a slot of this replica."""
        self._queue.push(ticket)
        self._expected_s[ticket[2]] = expected_s
        self.waiting_s += expected_s

    def withdraw(self, call_id: str) -> bool:
        """Take a call out of the queue; False if it does not wait here."""
        if not self._queue.remove(call_id):
            return False
        self._left(call_id)
        return True

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
        expected_s = self._expected_s.pop(call_id)
        self.waiting_s = self.waiting_s - expected_s if self._expected_s else 0.0  # no rounding is left behind


class Fleet:
    """All replicas, by id, by model and by card."""

    def __init__(self) -> None:
        self._replicas: dict[str, ReplicaState] = {}
        self._by_model: dict[str, list[ReplicaState]] = defaultdict(list)
        self._by_card: dict[str, list[ReplicaState]] = defaultdict(list)
        self._slots: dict[tuple[str, int], ReplicaState] = {}  # (call id, attempt) -> where it runs
        self._views: dict[str, ReplicaView] = {}
        self._model_views: dict[str, tuple[ReplicaView, ...]] = {}

    def __iter__(self) -> Iterator[ReplicaState]:
        return iter(self._replicas.values())

    def __len__(self) -> int:
        return len(self._replicas)

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

    def add(self, replica: Replica) -> ReplicaState:
        """Add a replica that is ready."""
        state = ReplicaState(replica)
        self._replicas[replica.replica_id] = state
        self._by_model[replica.model].append(state)
        self._by_model[replica.model].sort(key=lambda s: (s.replica.name, s.replica.replica_id))
        self._by_card[replica.card].append(state)
        self.changed(state)
        return state

    def remove(self, replica_id: str) -> ReplicaState | None:
        """Take a replica out; the caller deals with its calls."""
        state = self._replicas.pop(replica_id, None)
        if state is None:
            return None
        for held in state.running:
            self._slots.pop(held, None)
        for index, key in ((self._by_model, state.replica.model), (self._by_card, state.replica.card)):
            index[key].remove(state)
            if not index[key]:
                del index[key]
        self._views.pop(replica_id, None)
        self._model_views.pop(state.replica.model, None)
        for neighbour in self._by_card.get(state.replica.card, ()):
            self.changed(neighbour)
        return state

    def take(self, state: ReplicaState, call_id: str, attempt: int, expected_end: float) -> None:
        """Give a slot of a replica to an attempt."""
        state.running[call_id, attempt] = expected_end
        self._slots[call_id, attempt] = state
        self.changed(state)

    def holds(self, call_id: str, attempt: int) -> bool:
        """Whether an attempt has a slot."""
        return (call_id, attempt) in self._slots

    def free(self, call_id: str, attempt: int) -> ReplicaState | None:
        """Free the slot of an attempt; None if it holds none (its replica is gone, or said so before)."""
        state = self._slots.pop((call_id, attempt), None)
        if state is not None:
            del state.running[call_id, attempt]
            self.changed(state)
        return state

    def changed(self, state: ReplicaState) -> None:
        """Forget the views that show a replica or its card."""
        for neighbour in self._by_card.get(state.replica.card, (state,)):
            self._views.pop(neighbour.replica.replica_id, None)
            self._model_views.pop(neighbour.replica.model, None)

    def views(self, model: str) -> tuple[ReplicaView, ...]:
        """Replicas of a model that take calls, sorted by name."""
        made = self._model_views.get(model)
        if made is None:
            made = tuple(self._view(state) for state in self._by_model.get(model, ()) if not state.draining)
            self._model_views[model] = made
        return made

    def _view(self, state: ReplicaState) -> ReplicaView:
        replica = state.replica
        view = self._views.get(replica.replica_id)
        if view is None:
            full = len(state.running) >= replica.slots
            view = self._views[replica.replica_id] = ReplicaView(
                replica_id=replica.replica_id,
                name=replica.name,
                model=replica.model,
                accelerator=replica.accelerator,
                card=replica.card,
                slots=replica.slots,
                running=len(state.running),
                waiting=state.waiting,
                card_running=sum(len(s.running) for s in self._by_card[replica.card]),
                latency=replica.latency,
                slot_free_at=min(state.running.values()) if full else 0.0,
                waiting_s=state.waiting_s,
            )
        return view
