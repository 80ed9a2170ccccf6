"""What the workers know of replicas and of the attempts on their engines, as `shell.Shell` keeps it."""

from __future__ import annotations

from dask_fmware.model.replica import Replica
from dask_fmware.runtime import Assign

__all__ = ["Workers"]


class Workers:
    """One engine for each replica; none takes more than it should."""

    def __init__(self) -> None:
        self.replicas: dict[str, Replica] = {}
        self.engines: dict[str, list[tuple[str, int]]] = {}  # replica id -> attempts on it
        self.draining: set[str] = set()
        self.shut: dict[str, float] = {}  # replica id -> until when its engine has no room
        self.silent: dict[str, str] = {}  # replica id -> "dead" or "paused", which the machine does not know yet

    # -- replicas --------------------------------------------------------------------------------

    def host(self, replica: Replica) -> None:
        """A replica is there, for the first time or after its engine started again."""
        self.forget(replica.replica_id)
        self.replicas[replica.replica_id] = replica
        self.engines[replica.replica_id] = []

    def forget(self, replica_id: str) -> None:
        """The worker of a replica is gone."""
        for books in (self.replicas, self.engines, self.shut, self.silent):
            books.pop(replica_id, None)
        self.draining.discard(replica_id)

    def drain(self, replica_id: str, draining: bool) -> None:
        """A replica is to take no more calls, or to take some again."""
        if draining:
            self.draining.add(replica_id)
            return
        self.draining.discard(replica_id)
        if self.silent.get(replica_id) == "paused":
            del self.silent[replica_id]

    def shut_until(self, replica_id: str, until: float) -> None:
        """The server behind an engine wants no calls for a while."""
        self.shut[replica_id] = max(until, self.shut.get(replica_id, 0.0))

    def takes_tasks(self, replica_id: str) -> bool:
        """Whether a task that is sent to a replica arrives."""
        return replica_id in self.replicas and replica_id not in self.silent

    # -- attempts --------------------------------------------------------------------------------

    def take(self, action: Assign, model: str | None, now: float) -> None:
        """An attempt of a call of a model comes; it may wait for a slot if that was said."""
        replica, engine = self.replicas[action.replica_id], self.engines[action.replica_id]
        assert replica.model == model
        assert replica.replica_id not in self.draining
        assert self.shut.get(replica.replica_id, 0.0) <= now, f"{action} on a replica that is shut"
        assert len(engine) < replica.slots * (2 if action.wait_s else 1), f"{action} on a full replica"
        assert (action.call_id, action.attempt) not in {one for on in self.engines.values() for one in on}
        engine.append((action.call_id, action.attempt))

    def let_go(self, replica_id: str, call_id: str, attempt: int) -> None:
        """An engine is done with an attempt."""
        self.engines[replica_id].remove((call_id, attempt))

    def is_ahead(self, replica_id: str, call_id: str, attempt: int) -> bool:
        """Whether an attempt waits for a slot of its engine."""
        return self.engines[replica_id].index((call_id, attempt)) >= self.replicas[replica_id].slots

    def attempts(self) -> list[tuple[str, str, int]]:
        """Replica, call and number of all that are on an engine."""
        return [(r, call_id, attempt) for r, engine in self.engines.items() for call_id, attempt in engine]
