"""What a run under way has left: for each of its calls, when it must start at the latest, or by how much it is ahead.

Latest start = deadline - quantile of the critical path after the call - quantile of its own execution. It is worked out
when somebody asks, from what is known then: nodes that have ended, branches that were taken, tokens that were
generated. Quantiles of the parts are added up, which is at least the quantile of their sum. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from dask_fmware.model.bounds import due as due_bound
from dask_fmware.model.report import AttemptReport
from dask_fmware.runtime.foresight.views import CallViews
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.runs.records import TERMINAL, CallRecord, RunRecord

__all__ = ["CallSlack", "live_slack"]


@dataclass(frozen=True, slots=True)
class CallSlack:
    """One call that has not ended, on the machine's clock."""

    latest_start: float  # of a call that runs: when it must have started to be in time, as far as it has got
    slack_s: float  # until then; of a call that runs, between its expected end and when it is due


def live_slack(
    run: RunRecord, calls: Iterable[CallRecord], views: CallViews, fleet: Fleet, now: float, quantile: float
) -> Iterator[tuple[str, CallSlack]]:
    """Yield the slack of each call of a run that has not ended, with the call's id.

    It is that of the least bound that has not been met; without one there is none. A call takes some 50 us.
    """
    bound = due_bound(run.report) if run.report.state == "running" else None
    if bound is None:
        return
    to_token = bound.what == "first token"
    knowledge = views.knowledge
    shape = knowledge.shape(run.plan, to_end=not to_token)
    paths_s = cache(lambda: knowledge.paths_quantile_s(shape, run.decided, quantile))  # once for all calls
    for call in calls:
        if call.report.state in TERMINAL or run.skips(call) is not None:
            continue
        due, node = run.report.submitted + bound.promised_s, call.node
        if not (node.answers and to_token):
            node = replace(node, answers=False)
            due -= knowledge.after_quantile_s(shape, node.name, paths_s(), quantile)
        own_s = knowledge.nodes.call_s(run.plan.workflow, node, quantile)
        attempt = call.attempt
        if attempt is None:
            yield call.call_id, CallSlack(due - own_s, due - own_s - now)
            continue
        end = _expected_end(call, attempt, views, fleet, now, own_s, quantile, to_token=to_token)
        started = run.report.submitted + attempt.started_at
        yield call.call_id, CallSlack(due - (end - started), due - end)


def _expected_end(
    call: CallRecord,
    attempt: AttemptReport,
    views: CallViews,
    fleet: Fleet,
    now: float,
    own_s: float,
    quantile: float,
    *,
    to_token: bool,
) -> float:
    """When a call that runs will have done what its node is for, going by the tokens that it has.

    An answer is awaited for its first token, and when it has that, unless `to_token` is all that is due, for its end.
    """
    submitted, first = call.run.report.submitted, attempt.first_token_at
    if call.node.answers and to_token and first is not None:
        return submitted + first
    stay = fleet.stay(call.call_id, attempt.attempt)
    state = fleet.get(attempt.replica_id)
    if stay is None or state is None or not stay.tokens or (call.node.answers and first is None):
        return max(submitted + attempt.started_at + own_s, now)
    length = views.knowledge.nodes.length(call.run.plan.workflow, call.node, quantile, stay.tokens)
    return max(stay.seen_at + (length - stay.tokens) * fleet.token_s(state), now)
