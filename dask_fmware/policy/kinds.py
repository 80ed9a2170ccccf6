"""Replicas of one kind: same accelerator, same slots, about the same speed. Only their load tells them apart.

A policy that looks at the best replica of each kind costs the same at ten replicas and at a thousand: the
fleet keeps each kind in the order of the policy's `rank`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import log
from typing import TypeAlias, overload

from dask_fmware.policy.protocol import CallView, Rank, ReplicaView

__all__ = ["Kind", "RankedReplicas", "candidates", "kind_of", "leaders"]

Kind: TypeAlias = tuple[object, ...]
STEPS = 10.0  # speeds are one kind within about ten percent


def kind_of(replica: ReplicaView) -> Kind:
    """What replicas of one kind have in common."""
    latency = replica.latency
    figures = (latency.first_token_s, latency.prompt_token_s, latency.output_token_s)
    return (replica.accelerator, replica.slots, *(round(STEPS * log(f)) if f > 0 else None for f in figures))


def leaders(replicas: Sequence[ReplicaView], rank: Callable[[ReplicaView], Rank]) -> Sequence[ReplicaView]:
    """The least-ranked replica of each kind: from the fleet's index, or by looking at each of a plain sequence."""
    if isinstance(replicas, RankedReplicas):
        return replicas.leaders
    # Without an index every replica is looked at anyway, so none is left out for being one of a kind.
    return sorted(replicas, key=rank)


def candidates(
    call: CallView, replicas: Sequence[ReplicaView], rank: Callable[[ReplicaView], Rank]
) -> Sequence[ReplicaView]:
    """The leaders, and the replica whose cache has the beginning of a call's prompt."""
    found = leaders(replicas, rank)
    if call.home is None or not isinstance(replicas, RankedReplicas):
        return found
    home = replicas.find(call.home)
    return found if home is None or home in found else [*found, home]


class _Ranking:
    """A heap of the replicas of one kind, which skips what is out of date."""

    __slots__ = ("heap", "kind", "members")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.heap: list[tuple[Rank, int, int, ReplicaView]] = []  # rank, position, tie, view
        self.members = 0


class RankedReplicas(Sequence[ReplicaView]):
    """The ready replicas of one model, sorted by name and id, each kind also in the order of a rank.

    A view is replaced when its replica has changed: O(log n), and asking for the leaders O(kinds).
    """

    __slots__ = ("_kind", "_positions", "_rank", "_rankings", "_ties", "_views")

    def __init__(self, views: Iterable[ReplicaView], rank: Callable[[ReplicaView], Rank]) -> None:
        self._rank = rank
        self._views = list(views)
        self._ties = 0
        self._positions: dict[str, int] | None = None  # by id, once somebody asks
        self._kind: list[_Ranking] = []
        self._rankings: dict[Kind, _Ranking] = {}
        for position, view in enumerate(self._views):
            ranking = self._ranking(view)
            ranking.heap.append((rank(view), position, 0, view))
            self._kind.append(ranking)
        for ranking in self._rankings.values():
            heapify(ranking.heap)

    def _ranking(self, view: ReplicaView) -> _Ranking:
        """Return the ranking of the kind of a view, with one member more."""
        kind = kind_of(view)
        ranking = self._rankings.get(kind)
        if ranking is None:
            ranking = self._rankings[kind] = _Ranking(kind)
        ranking.members += 1
        return ranking

    def replace(self, position: int, view: ReplicaView) -> None:
        """Show a replica as it is."""
        before, self._views[position] = self._views[position], view
        ranking = self._kind[position]
        if view.latency is not before.latency or view.slots != before.slots:  # perhaps of another kind by now
            ranking.members -= 1
            if not ranking.members:
                del self._rankings[ranking.kind]
            ranking = self._kind[position] = self._ranking(view)
        self._ties += 1
        heappush(ranking.heap, (self._rank(view), position, self._ties, view))
        if len(ranking.heap) > 4 * ranking.members + 16:
            ranking.heap = [entry for entry in ranking.heap if self._views[entry[1]] is entry[3]]
            heapify(ranking.heap)

    @property
    def changes(self) -> int:
        """A number that grows with each change."""
        return self._ties

    @property
    def leaders(self) -> list[ReplicaView]:
        """The least-ranked replica of each kind."""
        views, found = self._views, []
        for ranking in self._rankings.values():
            heap = ranking.heap
            _, position, _, view = heap[0]
            while views[position] is not view:
                heappop(heap)
                _, position, _, view = heap[0]
            found.append(view)
        return found

    def find(self, replica_id: str) -> ReplicaView | None:
        """Return the replica of an id, or None."""
        if self._positions is None:
            self._positions = {view.replica_id: position for position, view in enumerate(self._views)}
        position = self._positions.get(replica_id)
        return None if position is None else self._views[position]

    @overload
    def __getitem__(self, index: int) -> ReplicaView: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReplicaView]: ...
    def __getitem__(self, index: int | slice) -> ReplicaView | list[ReplicaView]:
        return self._views[index]

    def __len__(self) -> int:
        return len(self._views)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
