"""Workers that are asked for by number: names that stand for those that have not come, until they have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Pools"]

Key: TypeAlias = tuple[str, str]  # model, accelerator


class Pools:
    """Remembers which names stand for whom, from look to look."""

    def __init__(self) -> None:
        self._kinds: set[Key] = set()
        self._awaited: dict[Key, list[str]] = {}  # placeholders of those that have not come
        self._placeholders = 0  # so many were ever named

    def __contains__(self, kind: Key) -> bool:
        return kind in self._kinds

    def __iter__(self) -> Iterator[Key]:
        return iter(self._kinds)

    def names(
        self,
        sizes: Mapping[Key, int],
        there: Mapping[Key, Sequence[str]],
        known: Collection[str],
        going: Collection[str],
    ) -> list[tuple[str, Key]]:
        """Names of the replicas of pools: those that are there, and a placeholder for each that is to come.

        One that comes takes the place of who was asked for first. Those that are to go count no more, and have none.

        Parameters
        ----------
        sizes
            How many there are to be of each kind.
        there
            Names of those that have come.
        known
            Names of the look before.
        going
            Names of those that are to be stopped.
        """
        self._kinds = set(sizes)
        found = []
        for kind, count in sizes.items():
            came, awaited = there.get(kind, ()), self._awaited.setdefault(kind, [])
            del awaited[: sum(name not in known for name in came)]
            to_come = max(count - sum(name not in going for name in came), 0)
            while len(awaited) > to_come:
                awaited.remove(next((name for name in awaited if name in going), awaited[0]))
            while len(awaited) < to_come:
                self._placeholders += 1
                awaited.append(f"{kind[0]}-{kind[1]}-pending-{self._placeholders}")
            found += [(name, kind) for name in (*came, *awaited)]
        return found
