"""Calls that have lost all attempts but one: each has a replica to itself, so that no other prompt takes its last one.

A prompt may kill whatever runs it, and all that run beside it lose an attempt as well. Who is to blame nobody can see,
but a call that is alone can only be taken by itself. What that costs are the other slots of a replica for one call,
after two engines have died under it. At most half of a model's replicas are kept for such calls, and at least one; they
are served in turn.
"""

from __future__ import annotations

from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.slots import ReplicaState
from dask_fmware.runtime.replicas.standing import WHOEVER
from dask_fmware.runtime.runs.records import CallRecord

__all__ = ["Apart"]

LEAST_LOST = 2  # engines: one death is everyday, and to serve all its calls one by one would be worse than it


class Apart:
    """Who waits for a replica of its own, and which replicas are kept for that.

    Parameters
    ----------
    fleet
        The replicas.
    max_attempts
        Tries of one call.
    """

    def __init__(self, fleet: Fleet, max_attempts: int) -> None:
        self._fleet = fleet
        self._from = max(max_attempts - 1, LEAST_LOST)
        self._waiting: dict[str, dict[str, None]] = {}  # model -> calls, in order; none is empty
        self._kept: dict[str, list[ReplicaState]] = {}  # model -> replicas

    def concerns(self, call: CallRecord) -> bool:
        """Whether a call must be alone: it may have killed its engines. Where replicas run one at a time, each is."""
        if call.tries < self._from or call.tries - call.unharmed < LEAST_LOST:
            return False
        states = self._fleet.of(call.node.model or "")
        return not states or any(state.is_shared for state in states)

    @property
    def is_empty(self) -> bool:
        """Whether no call waits and no replica is kept, as nearly always."""
        return not self._waiting and not self._kept

    @property
    def models(self) -> list[str]:
        """Models of which calls wait."""
        return list(self._waiting)

    def waiting(self, model: str) -> int:
        """Calls of a model that wait."""
        return len(self._waiting.get(model, ()))

    def push(self, call: CallRecord) -> None:
        """Let a call wait."""
        self._waiting.setdefault(call.node.model or "", {})[call.call_id] = None

    def remove(self, call: CallRecord) -> ReplicaState | None:
        """Let a call wait no more; return a replica that was kept for it."""
        model = call.node.model or ""
        there = self._waiting.get(model)
        if there is None or call.call_id not in there:
            return None
        del there[call.call_id]
        if not there:
            del self._waiting[model]
        kept = self._kept.get(model)
        return kept[0] if kept else None

    def give_up(self, model: str) -> list[str]:
        """Let no call of a model wait any more; return their ids."""
        return list(self._waiting.pop(model, ()))

    def next(self, model: str) -> tuple[str, ReplicaState] | None:
        """Take out the first call for which a replica is empty, or None."""
        there = self._waiting.get(model)
        if there is None or (state := self._empty(model)) is None:
            return None
        call_id = next(iter(there))
        del there[call_id]
        if not there:
            del self._waiting[model]
        self._keep(state, call_id)
        return call_id, state

    def settle(self, model: str) -> ReplicaState | None:
        """Give back what is not needed; else return a replica that is kept from now on, to be emptied."""
        if model not in self._waiting and model not in self._kept:
            return None  # at no cost that grows with the fleet
        kept = self._kept.get(model, [])
        for state in list(kept):
            is_there = self._fleet.get(state.replica.replica_id) is state
            is_wanted = state.is_alone or (model in self._waiting and state.standing.takes_calls)
            if not (is_there and is_wanted):
                kept.remove(state)
                self._fleet.restate(state, kept_for=None)
        if not kept:
            self._kept.pop(model, None)
        open_ = self._candidates(model)
        if model not in self._waiting or not open_ or any(not state.is_alone for state in kept):
            return None
        if not self._may_keep(model):
            return None
        state = min(open_, key=lambda one: (len(one.running), one.replica.name, one.replica.replica_id))
        self._keep(state, WHOEVER)
        return state

    def _keep(self, state: ReplicaState, call_id: str) -> None:
        if state.standing.kept_for is None:
            self._kept.setdefault(state.replica.model, []).append(state)
        self._fleet.restate(state, kept_for=call_id)

    def _candidates(self, model: str) -> list[ReplicaState]:
        """Replicas that may be kept: those on trial only if there are no others."""
        open_ = [state for state in self._fleet.of(model) if state.standing.is_offered]
        return [state for state in open_ if not state.standing.is_on_trial] or open_

    def _may_keep(self, model: str) -> bool:
        """Whether one more replica may be kept; those that take no calls serve nobody else anyhow."""
        kept = [state for state in self._kept.get(model, ()) if state.standing.takes_calls]
        return len(kept) < max(len(self._fleet.of(model)) // 2, 1)

    def _empty(self, model: str) -> ReplicaState | None:
        kept = [state for state in self._kept.get(model, ()) if state.standing.takes_calls]
        more = self._candidates(model) if self._may_keep(model) else []
        for state in kept + more:
            if not state.running and not state.waiting and state.free_slots > 0:
                return state
        return None
