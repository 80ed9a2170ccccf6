"""What goes with a call that is given to a replica: what is expected of it, how long it may be silent, who is charged.

Which call gets which replica was decided before.
"""

from __future__ import annotations

from dask_fmware.policy import estimate
from dask_fmware.profile.quantiles import load_band
from dask_fmware.runtime.actions import Assign
from dask_fmware.runtime.dispatching.hedging import Hedging
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.learning.nodes import base_name
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.slots import ReplicaState, Stay
from dask_fmware.runtime.runs import attempts
from dask_fmware.runtime.runs.records import CallRecord
from dask_fmware.runtime.runs.shares import Shares

__all__ = ["Assigner"]

STALL = 20.0  # times as long as a whole call should take: so long without a token is no slow engine any more


class Assigner:
    """Makes assignments, and enters them in the books.

    Parameters
    ----------
    fleet
        The replicas.
    views
        Calls as policies see them.
    shares
        What tenants have been given.
    hedging
        Who is tried elsewhere for giving no token.
    stall_s
        The least time without a token after which an attempt is given up; 0 is never.
    """

    def __init__(self, fleet: Fleet, views: CallViews, shares: Shares, hedging: Hedging, stall_s: float = 0.0) -> None:
        self._fleet = fleet
        self._views = views
        self._shares = shares
        self._hedging = hedging
        self._stall_s = stall_s

    def assign(
        self, call: CallRecord, state: ReplicaState, reason: str, now: float, priority: float | None = None
    ) -> Assign:
        """Let a call take a slot of a replica, or come next on it.

        Parameters
        ----------
        call, state
            Who takes a slot of what; one is free, or about to be.
        reason
            For people.
        now
            Seconds on the machine's clock.
        priority
            For the engine, lower ones first; that of the run by default.
        """
        replica, fleet = state.replica, self._fleet
        view, number = self._views.view(call), self._next_number(call)
        prompt_tokens = view.prompt_at(replica.replica_id)
        parts_s = estimate.expected_parts_s(prompt_tokens, view.output_tokens, fleet.offered(state), now)
        expected = state.pace.predict(load_band(state.busy, state.waiting, replica.slots), *parts_s)
        expected_s = expected.by_law_s
        overdue_s = self._hedging.given(call, expected.ttft_s)
        ideal = self._views.execution(replica.model, view.prompt_tokens, view.output_tokens)
        attempts.begin(call, replica, number, reason, expected, ideal, now)
        self._shares.given(view.tenant, call.run.level, expected_s / replica.slots)
        context_tokens = view.prompt_tokens + int(view.output_tokens / 2)
        kind = (replica.model, replica.accelerator, view.workflow, base_name(view.node))
        stay = Stay(expected_s, context_tokens, view.due is None, kind)
        wait_s = fleet.ahead.patience_s(state, stay, now)
        law = fleet.law(replica)
        if law is not None:
            state.given(stay, law.prompt_s(prompt_tokens), now)
        fleet.take(state, call.call_id, number, stay, now)
        if priority is None:
            priority = -float(call.run.plan.priority)
        stall_s = max(self._stall_s, STALL * expected_s) if self._stall_s else 0.0
        return Assign(
            call.call_id, replica.replica_id, number, priority, reason, stall_s, replica.incarnation, wait_s, overdue_s
        )

    def _next_number(self, call: CallRecord) -> int:
        made = call.report.attempts
        number = made[-1].attempt + 1 if made else 1
        while self._fleet.holds(call.call_id, number):  # a run of the same id was dropped, and its abort is under way
            number += 1
        return number
