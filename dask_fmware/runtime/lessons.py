"""What finished calls teach: how long their nodes are, what caches hold, how well ends and durations are foreseen.

It writes into what the machine knows, and decides nothing.
"""

from __future__ import annotations

from dask_fmware.model.messages import AttemptEnded
from dask_fmware.model.report import AttemptReport
from dask_fmware.policy.estimate import execution_s
from dask_fmware.runtime.learning.histories import NodeHistory
from dask_fmware.runtime.learning.knowledge import Knowledge
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.replicas.slots import ReplicaState, Stay
from dask_fmware.runtime.runs.records import CallRecord

__all__ = ["Lessons"]


class Lessons:
    """Takes them from one attempt after the other.

    Parameters
    ----------
    fleet
        The replicas: their pace, and what is ahead on them.
    knowledge
        Of workflows.
    predicts
        Whether what is told of calls is brought nearer by what finished ones took.
    """

    def __init__(self, fleet: Fleet, knowledge: Knowledge, predicts: bool) -> None:
        self._fleet = fleet
        self._knowledge = knowledge
        self._predicts = predicts

    def finished(
        self, call: CallRecord, attempt: AttemptReport, event: AttemptEnded, stay: Stay, state: ReplicaState, now: float
    ) -> None:
        """Learn from an attempt that has finished its call, on `state`, as its worker says in `event`."""
        replica, pace = state.replica, state.pace
        if event.latency_s is not None:
            shares_card = replica.card_slots is not None
            self._fleet.ahead.ended(stay, event.latency_s, event.waited_s, now, shares_card=shares_card)
        tokens = event.prompt_tokens, event.output_tokens
        history = self._knowledge.observe_call(call.run.plan.workflow, call.node.name, *tokens)
        self._served(call, replica.replica_id, event.cached_tokens, history)
        if not attempt.by_law_s or attempt.ended_at is None or stay.began_at is None:
            return
        if not call.node.answers:
            pace.stretch.observe(attempt.by_law_s, attempt.ended_at - attempt.started_at)
        elif replica.slots == 1 and attempt.first_token_at is not None:
            first_s = execution_s(self._fleet.latency(replica), event.prompt_tokens, 0.0)
            pace.handover.observe(attempt.first_token_at - event.hidden_s - attempt.started_at - first_s)
        if self._predicts:
            pace.observe(attempt, event.hidden_s)

    def _served(self, call: CallRecord, replica_id: str, cached_tokens: int, history: NodeHistory) -> None:
        """Learn how much of a prompt the replica has that served its run before, and how much the others have."""
        run, model = call.run, call.node.model or ""
        home = run.homes.get(model)
        if home is not None:
            (history.cached_at_home if replica_id == home else history.cached_elsewhere).add(cached_tokens)
        if home != replica_id:
            run.homes = {**run.homes, model: replica_id}
