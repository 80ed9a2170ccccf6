"""When an attempt is about to end, so that its successor can be on its way already.

Between the end of a call and the start of the next one lie two messages, a decision, a task and its inputs: the
*way*, some milliseconds in which a slot stands empty. An engine whose calls take 100 ms loses a tenth of its time by
it. So one call more may be bound to a slot from a way before its attempt is expected to end, but only where ends are
known about as well: else a call would be bound long before its slot is free, and could have gone elsewhere meanwhile.

Both are measured. The way is what an attempt took beyond its time in the engine, as its worker timed it. How well ends
are known is how far engine times of the latest calls of the same node lie from their middle. Without figures, or where
the way costs nothing, nothing is ever ahead.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from heapq import heappop, heappush
from math import inf

from dask_fmware.runtime.replicas.slots import AttemptKey, ReplicaState, Stay

__all__ = ["Ahead"]

REMEMBERED = 50  # figures of each kind
NEEDED = 5  # figures without which nothing is known
WAY = 0.75  # quantile of the way that is hidden
KNOWN = 0.9  # quantile of errors that must lie within `MARGIN` ways
MARGIN = 2.0
MOST_KINDS = 4096  # that are remembered, those that ended last
LEAST_S = 0.0005  # a shorter way is not worth it
PATIENCE = 20.0  # ways after the expected end, after which a call that is ahead is given back


class _Latest:
    """The latest figures, also in order."""

    __slots__ = ("_latest", "_ordered")

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._ordered)

    def add(self, figure: float) -> None:
        if len(self._latest) == REMEMBERED:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]
        self._latest.append(figure)
        insort(self._ordered, figure)

    def at(self, quantile: float) -> float:
        return self._ordered[int(quantile * (len(self._ordered) - 1) + 0.5)]


class Ahead:
    """What is known of ends, and which attempts come to theirs."""

    def __init__(self) -> None:
        self._ways: dict[str, _Latest] = defaultdict(_Latest)  # model -> seconds
        self._paces: dict[tuple[str, ...], _Latest] = {}
        """(model, accelerator, workflow, node) -> time in the engine, of what was expected of it."""
        self._due: list[tuple[float, int, ReplicaState, AttemptKey, Stay]] = []
        self._count = 0

    def way_s(self, kind: tuple[str, ...], quantile: float = WAY) -> float:
        """Seconds from the end of a call on a kind of replica to the start of the next one; 0 if none is known."""
        known = self._ways.get(kind[0]) if kind else None
        return known.at(quantile) if known is not None and len(known) >= NEEDED else 0.0

    def begun(self, state: ReplicaState, key: AttemptKey, stay: Stay) -> None:
        """An attempt has a slot: foretell its end, if that can be known."""
        way_s, pace = self.way_s(stay.kind), self._paces.get(stay.kind)
        if way_s < LEAST_S or pace is None or len(pace) < NEEDED or stay.began_at is None:
            return
        middle = pace.at(0.5)
        error_s = stay.expected_s * max(pace.at(KNOWN) - middle, middle - pace.at(1.0 - KNOWN))
        if error_s > MARGIN * way_s:
            return
        on_its_way_s = self.way_s(stay.kind, 0.5) if stay.began_at == stay.given_at else 0.0  # else it was there
        state.foretell(key, stay.began_at + on_its_way_s + stay.expected_s * middle)
        self._count += 1
        heappush(self._due, (stay.expected_end - way_s, self._count, state, key, stay))

    def ended(self, stay: Stay, latency_s: float, waited_s: float, now: float, *, shares_card: bool = False) -> None:
        """An attempt has finished: `latency_s` in its engine after `waited_s` for a slot, as its worker says."""
        if stay.began_at is None or stay.expected_s <= 0.0 or not stay.kind:
            return
        self._ways[stay.kind[0]].add(max(now - stay.given_at - latency_s - waited_s, 0.0))
        if shares_card and stay.began_at > stay.given_at:  # its engine has counted a wait for the card
            latency_s = min(latency_s, now - stay.began_at)
        pace = self._paces.pop(stay.kind, None) or _Latest()
        pace.add(latency_s / stay.expected_s)
        self._paces[stay.kind] = pace  # the last
        if len(self._paces) > MOST_KINDS:
            del self._paces[next(iter(self._paces))]

    @property
    def next_at(self) -> float:
        """When the next attempt is about to end; infinity if none is known."""
        due = self._due
        while due:
            at, _, state, key, stay = due[0]
            if state.running.get(key) is stay and not stay.is_ending:
                return at
            heappop(due)
        return inf

    def come(self, now: float) -> list[ReplicaState]:
        """Take note of the attempts that are about to end, and return their replicas."""
        states: dict[ReplicaState, None] = {}
        while self.next_at <= now:
            _, _, state, key, stay = heappop(self._due)
            if state.let_in(key, stay):
                states[state] = None
        return list(states)

    def patience_s(self, state: ReplicaState, stay: Stay, now: float) -> float:
        """Seconds that an attempt may be ahead, after which it is given back; 0 if a slot is free for it."""
        if not state.is_taken:
            return 0.0
        return max(state.free_at - now, 0.0) + PATIENCE * max(self.way_s(stay.kind), LEAST_S)
