"""Which calls wait, and where: for a replica of their model, for one of their own, or in the queue of one.

It keeps them in the order of the policy and tells the outlook of them. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Set
from math import inf

from dask_fmware.errors import PolicyFaultError
from dask_fmware.policy import estimate
from dask_fmware.policy.checked import CheckedPolicy
from dask_fmware.runtime.dispatching.apart import Apart
from dask_fmware.runtime.foresight.outlook import ToCome
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.queue import Queues, Ticket
from dask_fmware.runtime.replicas.slots import ReplicaState
from dask_fmware.runtime.runs.records import CallRecord, Runs

__all__ = ["Waiting"]

BEHIND = "other calls of its model are served first"


class Waiting:
    """Calls that wait, each in one place.

    Parameters
    ----------
    policy
        Orders them.
    fleet
        The replicas, which have queues of their own.
    runs
        The calls.
    views
        How policies see them.
    to_come
        What policies that plan are shown.
    apart
        Who waits for a replica of its own.
    """

    def __init__(
        self, policy: CheckedPolicy, fleet: Fleet, runs: Runs, views: CallViews, to_come: ToCome, apart: Apart
    ) -> None:
        self.queues = Queues()  # of the calls that are held
        self.apart = apart
        self._ids: dict[str, None] = {}  # calls in any queue; a set of many takes three times the memory
        self._policy = policy
        self._fleet = fleet
        self._runs = runs
        self._views = views
        self._to_come = to_come

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Set[str]:
        """Ids of the calls that wait, centrally or in the queue of a replica."""
        return self._ids.keys()

    @property
    def models(self) -> list[str]:
        """Models of which calls are held centrally."""
        return list(dict.fromkeys([*self.queues, *self.apart.models]))

    def held(self, model: str) -> int:
        """Calls of a model that are held centrally."""
        return len(self.queues.get(model, ())) + self.apart.waiting(model)

    def ticket(self, call: CallRecord) -> Ticket:
        """Return the place of a call in the order of the policy; the first, if that has none, so that it fails next."""
        order: tuple[float, ...] = ()
        try:
            order, call.fault = self._policy.order(self._views.view(call)), None
        except PolicyFaultError as fault:
            call.fault = fault
        return order, call.arrival, call.call_id

    # -- calls that come -------------------------------------------------------------------------

    def comes(self, call: CallRecord) -> None:
        """A call waits from now on; where, is said next."""
        self._ids[call.call_id] = None
        call.becomes("held", BEHIND)
        if not self._fleet.views(model := call.node.model or ""):
            lacked = "within its rate limit" if self._fleet.opens_at(model) < inf else "ready"
            call.report.lacked = f"no replica of model '{model}' was {lacked}"
        call.view = None
        if self._policy.plans:
            self._to_come.add(call.run)

    def push(self, call: CallRecord, ticket: Ticket) -> None:
        """Put a call that waits into the central queue of its model."""
        self.queues.push(call.node.model or "", ticket)

    def hold(self, call: CallRecord) -> None:
        """Let a call wait in the central queue of its model."""
        self.comes(call)
        self.push(call, self.ticket(call))

    def enqueue(self, call: CallRecord, state: ReplicaState, ticket: Ticket) -> None:
        """Put a call that waits into the queue of a replica."""
        call.becomes("queued")
        call.queued_on = state.replica.replica_id
        view = self._views.view(call)
        figure = self._fleet.latency(state.replica)
        expected_s = estimate.execution_s(figure, view.prompt_tokens, view.output_tokens)
        state.enqueue(ticket, expected_s)
        self._fleet.changed(state)

    def park(self, call: CallRecord, reason: str) -> None:
        """Let a call that cannot be in time go behind those that can; it is pushed anew."""
        call.parked, call.view, call.report.reason = True, None, reason
        self._to_come.remove(call.run)

    # -- calls that go ---------------------------------------------------------------------------

    def starts(self, call: CallRecord) -> None:
        """A call that was taken out of its queue is given a slot."""
        call.queued_on = None
        self._ids.pop(call.call_id, None)
        if not call.run.begun:
            self._to_come.begun(call.run)

    def ends(self, call: CallRecord) -> None:
        """A call that was taken out of its queue fails."""
        self._ids.pop(call.call_id, None)

    def remove(self, call: CallRecord) -> ReplicaState | None:
        """Take a call out of wherever it waits; return a replica that waited for it, or in whose queue it was."""
        self.queues.remove(call.node.model or "", call.call_id)
        self._ids.pop(call.call_id, None)
        state = self._fleet.get(call.queued_on) if call.queued_on is not None else None
        call.queued_on = None
        if state is not None and state.withdraw(call.call_id):
            self._fleet.changed(state)
            return state
        return self.apart.remove(call)

    def give_up(self, model: str) -> list[CallRecord]:
        """Let no call of a model wait centrally any more; return them, in the order of the policy."""
        queue, ids = self.queues.pop(model, None), self.apart.give_up(model)
        while queue is not None and (ticket := queue.pop()) is not None:
            ids.append(ticket[2])
        for call_id in ids:
            self._ids.pop(call_id, None)
        return [self._runs.calls[call_id] for call_id in ids]

    # -- calls that wait elsewhere ---------------------------------------------------------------

    def rehold(self, state: ReplicaState) -> None:
        """Let the calls in the queue of a replica wait centrally again."""
        for call_id in state.evict():
            call = self._runs.calls[call_id]
            call.queued_on = None
            self.hold(call)
        self._fleet.changed(state)

    def reorder(self, model: str) -> None:
        """Look anew at the held calls of a model that has a replica now: it is known how long they take."""
        queue = self.queues.pop(model, None)
        while queue is not None and (ticket := queue.pop()) is not None:
            call = self._runs.calls[ticket[2]]
            call.view = None
            if not call.parked:
                call.report.reason = BEHIND
            self.push(call, self.ticket(call))
