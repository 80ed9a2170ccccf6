"""The slots of replicas and cards: attempts that hold one, attempts that come next, calls that wait.

An attempt that is about to end may let its successor come (`Ahead` says when). The successor is *ahead*: it is with
the replica and begins when an attempt before it ends, so that an engine never runs more than its slots.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import TypeAlias

from dask_fmware.model.replica import Replica
from dask_fmware.runtime.learning.corrections import Pace
from dask_fmware.runtime.replicas.queue import CallQueue, Ticket
from dask_fmware.runtime.replicas.standing import READY, Standing

__all__ = ["AttemptKey", "Card", "ReplicaState", "Stay"]

AttemptKey: TypeAlias = tuple[str, int]  # call id, attempt


class Stay:
    """An attempt on a replica: what it takes of it, and since when."""

    __slots__ = (
        "began_at", "context_tokens", "expected_end", "expected_s", "given_at", "is_background", "is_ending",
        "is_moved", "kind", "prompts_s", "seen_at", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        expected_s: float,
        context_tokens: int = 0,
        is_background: bool = False,
        kind: tuple[str, ...] = (),
    ) -> None:
        self.expected_s = expected_s
        self.context_tokens = context_tokens  # on average while it runs
        self.is_background = is_background  # of a run without an objective
        self.kind = kind  # of call and replica, by which its end is predicted
        self.given_at = 0.0  # when it was given to its replica
        self.began_at: float | None = None  # when it had a slot; None while it is ahead
        self.expected_end = 0.0
        self.is_ending = False  # its successor may come
        self.is_moved = False  # its worker was told to end it, so that its call is tried elsewhere
        self.tokens = 0  # generated, as its worker said last
        self.seen_at = 0.0  # when that was
        self.prompts_s = 0.0  # of all prompts that its replica was given up to its own


class Card:
    """One piece of hardware and the replicas on it."""

    __slots__ = ("ahead", "ending", "replicas", "running", "slots", "waiting")

    def __init__(self) -> None:
        self.replicas: list[ReplicaState] = []
        self.running = 0
        self.ending = 0  # of the running
        self.ahead: dict[AttemptKey, ReplicaState] = {}  # of the running, those that have not begun; in order
        self.waiting = 0
        self.slots: int | None = None  # attempts at once over all replicas

    @property
    def is_full(self) -> bool:
        """Whether it has no slot for one more attempt, and none that is about to be free."""
        return self.slots is not None and self.running - self.ending >= self.slots

    def begin(self, now: float) -> list[AttemptKey]:
        """Let those begin that are ahead and have a slot by now."""
        begun: list[AttemptKey] = []
        for key, state in list(self.ahead.items()):
            if (
                self.slots is None or self.running - len(self.ahead) < self.slots
            ) and state.begun < state.replica.slots:
                del self.ahead[key]
                state.begin(key, now)
                begun.append(key)
        return begun


class ReplicaState:
    """One replica: attempts that hold its slots, calls that wait for one."""

    __slots__ = (
        "_ends", "_expected_s", "_queue", "background", "begun", "card", "context_tokens", "ending", "is_single",
        "moved", "pace", "position", "prefill_until", "prompts_s", "replica", "running", "slots", "standing",
        "waiting", "waiting_s",
    )  # fmt: skip

    def __init__(
        self,
        replica: Replica,
        card: Card | None = None,
        pace: Pace | None = None,
        standing: Standing = READY,
    ) -> None:
        self.replica = replica
        self.card = card or Card()
        self.pace = pace or Pace()  # of its kind
        self.moved = 0  # attempts that were moved away in a row, without a token of any
        self.position = -1  # among the views of its model; -1 while it is not offered
        self.running: dict[AttemptKey, Stay] = {}  # those that are ahead come last
        self.begun = 0  # of the running; the others are ahead
        self.ending = 0  # of the begun
        self.background = 0  # of the busy, see there
        self.prefill_until = 0.0  # when the prompts that it was given should be processed, as far as is known
        self.prompts_s = 0.0  # of all that it was given
        self.context_tokens = 0
        self.waiting = 0  # calls bound here that wait for a slot
        self.waiting_s = 0.0
        self._ends: list[tuple[float, AttemptKey]] = []  # a heap of expected ends; some attempts are over
        self._queue = CallQueue()
        self._expected_s: dict[str, float] = {}  # call id -> expected seconds, of those in the queue
        self.stand(standing)

    # -- attempts --------------------------------------------------------------------------------

    def stand(self, standing: Standing) -> None:
        """Stand otherwise to calls; said by `Fleet.restate` alone, which knows who must hear of it."""
        self.standing = standing
        self.is_single = standing.is_single
        self.slots = standing.slots(self.replica.slots)  # attempts at once; each decision asks for it

    @property
    def is_alone(self) -> bool:
        """Whether it runs the call that it is kept for, and is not just being emptied of others."""
        kept_for = self.standing.kept_for
        return kept_for is not None and any(call_id == kept_for for call_id, _ in self.running)

    @property
    def is_shared(self) -> bool:
        """Whether several attempts may run on it at once."""
        return self.replica.slots > 1 and (self.card.slots is None or self.card.slots > 1)

    @property
    def busy(self) -> int:
        """Slots that are taken and not about to be free."""
        return len(self.running) - self.ending

    @property
    def free_slots(self) -> int:
        """Slots that are free or about to be, as far as the card has room for one."""
        if self.card.is_full:
            return 0
        return self.slots - (len(self.running) if self.is_single else self.busy)

    @property
    def is_taken(self) -> bool:
        """Whether an attempt that is given to it now would be ahead."""
        card = self.card
        return len(self.running) >= self.replica.slots or (card.slots is not None and card.running >= card.slots)

    def start(self, call_id: str, attempt: int, stay: Stay, now: float) -> None:
        """Let an attempt take a slot, or be ahead."""
        key, card = (call_id, attempt), self.card
        is_ahead, stay.given_at = self.is_taken, now
        stay.expected_end = max(now, self.free_at) + stay.expected_s if is_ahead else now + stay.expected_s
        self.running[key] = stay
        card.running += 1
        self.context_tokens += stay.context_tokens
        self.background += stay.is_background
        if is_ahead:
            card.ahead[key] = self
            heappush(self._ends, (stay.expected_end, key))
        else:
            self.begin(key, now)

    def begin(self, key: AttemptKey, now: float) -> None:
        """An attempt has a slot."""
        stay = self.running[key]
        self.begun += 1
        stay.began_at, stay.expected_end = now, now + stay.expected_s
        heappush(self._ends, (stay.expected_end, key))

    def foretell(self, key: AttemptKey, end_at: float) -> None:
        """An attempt that has a slot is expected to end at another time."""
        self.running[key].expected_end = end_at
        heappush(self._ends, (end_at, key))

    def let_in(self, key: AttemptKey, stay: Stay, is_ending: bool = True) -> bool:
        """Let the successor of an attempt come, or no more; False if the attempt is over, or that was said before."""
        if self.running.get(key) is not stay or stay.is_ending is is_ending:
            return False
        stay.is_ending = is_ending
        by = 1 if is_ending else -1
        self.ending += by
        self.card.ending += by
        self.background -= by * stay.is_background
        if not is_ending:
            heappush(self._ends, (stay.expected_end, key))
        return True

    def given(self, stay: Stay, prompt_s: float, now: float) -> None:
        """Take note of one more prompt, which takes so long and is processed after those before it."""
        self.prompts_s = stay.prompts_s = self.prompts_s + prompt_s
        self.prefill_until = max(self.prefill_until, now) + prompt_s

    def processed(self, stay: Stay, now: float) -> bool:
        """The prompt of an attempt has been processed, so at most those given after it are to be; True if that is news.

        Without, prompts that take less than the law says would add up to work that nobody does.
        """
        self.moved = 0
        latest = now + self.prompts_s - stay.prompts_s
        if latest >= self.prefill_until:
            return False
        self.prefill_until = latest
        return True

    def end(self, key: AttemptKey) -> Stay:
        """Free the slot of an attempt."""
        card, stay = self.card, self.running.pop(key)
        if not self.running:
            self.prefill_until = 0.0
        card.running -= 1
        self.context_tokens -= stay.context_tokens
        self.background -= stay.is_background and not stay.is_ending
        if card.ahead.pop(key, None) is None:
            self.begun -= 1
        self.ending -= stay.is_ending
        card.ending -= stay.is_ending
        if len(self._ends) > 2 * len(self.running) + 16:
            self._ends = [(stay.expected_end, key) for key, stay in self.running.items()]
            heapify(self._ends)
        return stay

    def leave(self) -> None:
        """Free the slots of all attempts on its card; they are lost."""
        card = self.card
        card.running -= len(self.running)
        card.ending -= self.ending
        for key, stay in self.running.items():
            card.ahead.pop(key, None)
            stay.is_ending = True  # nobody is to follow it

    @property
    def next_end(self) -> float:
        """When the first of the running attempts whose successors may not come yet should end; 0 if there is none."""
        while self._ends:
            end_at, key = self._ends[0]
            stay = self.running.get(key)
            if stay is not None and stay.expected_end == end_at and not stay.is_ending:
                return end_at
            heappop(self._ends)
        return 0.0

    @property
    def free_at(self) -> float:
        """When an attempt that is given to it now is expected to have a slot; 0 for at once."""
        card, at = self.card, 0.0
        if len(self.running) >= self.slots:
            at = self.next_end if self.busy >= self.slots else _first_ending((self,))
        if card.slots is not None and card.running >= card.slots:
            if card.is_full:
                ends = min((end for other in card.replicas if (end := other.next_end)), default=0.0)
            else:
                ends = _first_ending(card.replicas)
            at = max(at, ends)
        return at

    # -- calls that wait -------------------------------------------------------------------------

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


def _first_ending(states: Iterable[ReplicaState]) -> float:
    ends = [stay.expected_end for state in states if state.ending for stay in state.running.values() if stay.is_ending]
    return min(ends, default=0.0)
