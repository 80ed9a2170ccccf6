"""The replicas of a log: the most that there were at once, and how many were not there all the time."""

from __future__ import annotations

from dataclasses import dataclass

from dask_fmware.model.replica import Replica

__all__ = ["Presence"]


@dataclass(slots=True)
class _Place:
    """Where one replica was at a time; who came after it had gone took its place."""

    replica: Replica  # the latest
    is_free: bool = False

    def suits(self, replica: Replica) -> bool:
        """Whether a replica that has come is this one, started again, or may be where it was."""
        mine = self.replica
        is_alike = (mine.model, mine.accelerator) == (replica.model, replica.accelerator)
        return is_alike and (self.is_free or mine.name == replica.name)


class Presence:
    """Who was there; times are seconds since the first event of the log."""

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._changes: list[tuple[float, str]] = []  # when a replica came, went or drained, and its name

    @property
    def replicas(self) -> list[Replica]:
        """As many of each model and accelerator as there were at once."""
        return [place.replica for place in self._places]

    def came(self, replica: Replica, now: float) -> None:
        """A replica is ready, or was all the time and knows its profile by now."""
        place = self._of(replica.replica_id)
        if place is not None:
            place.replica = replica
            return
        self._changes.append((now, replica.name))
        suiting = [place for place in self._places if place.suits(replica)]
        if suiting:
            place = min(suiting, key=lambda p: (p.replica.name != replica.name, p.replica.card != replica.card))
            place.replica, place.is_free = replica, False
        else:
            self._places.append(_Place(replica))

    def drained(self, replica_id: str, now: float) -> None:
        """A replica takes no new calls, or does again."""
        place = self._of(replica_id)
        if place is not None:
            self._changes.append((now, place.replica.name))

    def went(self, replica_id: str, now: float) -> None:
        """A replica is gone."""
        place = self._of(replica_id)
        if place is not None:
            self._changes.append((now, place.replica.name))
            place.is_free = True

    def changed(self, begin: float, end: float) -> int:
        """Return how many replicas came, went or drained within a time."""
        return len({name for at, name in self._changes if begin <= at <= end})

    def _of(self, replica_id: str) -> _Place | None:
        """The place of a replica that is there."""
        return next((p for p in self._places if not p.is_free and p.replica.replica_id == replica_id), None)
