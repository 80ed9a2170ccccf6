"""Calls that give no token in time are tried on another replica while they can still be in time.

It is what is called hedging, but that the first attempt ends when the second one is asked for: a concurrent one would
need a second writer for each call, and what is silent for three times as long as expected hardly ever wins
(`python -m benchmarks.hedging`). Only the worker sees every token, so it says when an attempt is overdue, and says it
again as it goes on waiting. Whether the call moves is decided here: it would miss its objective, elsewhere it
is likely to meet it, it has a further attempt to spare, and the tokens are within the budget.

An engine that is silent for everybody is left to the watch on hung engines, so of a replica that gives no token at
all no more attempts are moved in a row than it has slots.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from dask_fmware.model.messages import Overdue
from dask_fmware.policy.estimate import expected_s
from dask_fmware.policy.protocol import CallView
from dask_fmware.runtime.actions import Move
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.runs.records import CallRecord

__all__ = ["Hedging"]

OVERDUE = 3.0  # times the expected time to the first token, after which an attempt is overdue
LEAST_S = 0.1  # that it is later than expected by then, which a busy host may be at any time
REMEMBERED = 1000  # calls over which tokens are counted, about


class Hedging:
    """Who is tried elsewhere, and what that has cost.

    Parameters
    ----------
    fleet, views
        Replicas and calls.
    budget
        Tokens of calls that are tried elsewhere, of all; 0 is never.
    exempt
        Models whose calls are never tried elsewhere for being slow.
    max_attempts
        Tries of one call; the last one is kept for what fails.
    """

    def __init__(
        self, fleet: Fleet, views: CallViews, budget: float, exempt: Collection[str], max_attempts: int
    ) -> None:
        self.budget = budget
        self.exempt = frozenset(exempt)
        self._fleet = fleet
        self._views = views
        self._max_attempts = max_attempts
        self._tokens = self._moved = 0.0

    def given(self, call: CallRecord, ttft_s: float) -> float:
        """A call is given to a replica: return the seconds without a token after which it is overdue; 0 is never."""
        if not self.budget:
            return 0.0
        view = self._views.view(call)
        kept = 1.0 - 1.0 / REMEMBERED
        self._tokens = kept * self._tokens + _tokens(view)
        self._moved *= kept
        may_move = view.due is not None and view.model not in self.exempt and call.tries + 1 < self._max_attempts - 1
        return max(OVERDUE * ttft_s, ttft_s + LEAST_S) if may_move else 0.0

    def overdue(self, call: CallRecord, number: int, now: float) -> list[Move]:
        """An attempt has no token yet, says its worker: move its call, or let it be."""
        attempt = call.attempt
        if attempt is None or attempt.attempt != number or attempt.first_token_at is not None:
            return []
        state, stay = self._fleet.get(attempt.replica_id), self._fleet.stay(call.call_id, number)
        if state is None or stay is None or stay.began_at is None or stay.is_moved or stay.tokens:
            return []
        view = self._views.view(call)
        due, tokens = view.due, _tokens(view)
        if due is None or view.model in self.exempt or call.tries >= self._max_attempts - 1:
            return []
        if state.moved >= state.replica.slots or self._moved + tokens > self.budget * self._tokens:
            return []
        waited_s, ttft_s = now - stay.began_at, attempt.predicted_ttft_s or 0.0
        rest_s = 0.0 if view.answers else (attempt.predicted_s or ttft_s) - ttft_s
        here = now + max(waited_s - ttft_s, 0.0) + rest_s  # as much later as it is late already
        there = self._soonest_elsewhere(call, view, now)
        if there > due or (here <= due and there + (Overdue.AGAIN - 1.0) * waited_s <= due):
            return []  # it is lost anyway, or may wait for the next time it is said
        stay.is_moved = True
        state.moved += 1
        self._moved += tokens
        why = f"no token for {waited_s:.3f} s, {ttft_s:.3f} s were expected; in time elsewhere by {due - there:.3f} s"
        return [Move(call.call_id, state.replica.replica_id, number, why)]

    def _soonest_elsewhere(self, call: CallRecord, view: CallView, now: float) -> float:
        """When it would have done what it is for on another replica that has room; infinity if none has."""
        tokens, soonest = 0.0 if view.answers else view.output_tokens, inf
        tried = {attempt.replica_id for attempt in call.report.attempts}
        for replica in self._fleet.views(view.model):
            if not replica.has_room or replica.replica_id in tried:
                continue
            own_s = expected_s(view.prompt_at(replica.replica_id), tokens, replica, now)
            own_s = own_s + replica.delay_s if view.answers else own_s * replica.stretch
            soonest = min(soonest, max(now, replica.slot_free_at) + own_s)
        return soonest


def _tokens(view: CallView) -> float:
    return view.prompt_tokens + view.output_tokens
