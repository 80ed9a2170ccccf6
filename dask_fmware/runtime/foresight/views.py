"""Calls as policies see them: what is known of a call, of its run, and of how long both still take."""

from __future__ import annotations

from collections.abc import Mapping, Set

from dask_fmware.policy.estimate import execution_s
from dask_fmware.policy.protocol import CallView
from dask_fmware.profile.law import StepLaw
from dask_fmware.runtime.learning.knowledge import Knowledge, Shape, Work
from dask_fmware.runtime.replicas.fleet import Fleet
from dask_fmware.runtime.runs.admission import ModelLimits, least_prompt_tokens
from dask_fmware.runtime.runs.records import CallRecord, RunRecord
from dask_fmware.spec.deployment import Latency

__all__ = ["CallViews"]

TYPICAL = 500, 50  # tokens of a prompt and an output, by which speeds are compared


class CallViews:
    """Makes the views of calls, from knowledge and from what the deployment and the replicas say of models.

    Parameters
    ----------
    fleet
        Replicas, for the speed of a model.
    models
        Limits of the deployed models.
    """

    def __init__(self, fleet: Fleet, models: Mapping[str, ModelLimits]) -> None:
        self.knowledge = Knowledge(self.execution, self.card_s)
        self._fleet = fleet
        self._models = models
        self._fastest: dict[str, tuple[Latency, StepLaw | None, int]] = {}  # model -> speed and slots of such replicas
        self._capacity: dict[str, float] = {}
        self._limits: dict[str, ModelLimits | None] = {}  # as they were asked for last
        self._without: set[str] = set()  # models that were asked about while they had no replica

    def view(self, call: CallRecord) -> CallView:
        """Return a call as policies see it; made once for each time that it waits."""
        if call.view is None:
            call.view = self._make(call)
        return call.view

    def shape(self, run: RunRecord) -> Shape:
        """Return the shape of a run's workflow."""
        if run.shape is None:
            run.shape = self.knowledge.shape(run.plan, to_end=run.to_end)
        return run.shape

    def aim(self, run: RunRecord) -> None:
        """Let a run that was promised both go by the tighter bound: that of its first token, or that of its end."""
        report, plan = run.report, run.plan
        ends = [bound for bound in (report.e2e_slo_s, report.finish_by_s) if bound is not None]
        if report.ttft_slo_s is None or not ends:
            return
        rest_s = 0.0
        for node in plan.nodes:
            if node.answers and node.model is not None:
                first_s, whole_s = self.execution(node.model, *self.knowledge.nodes.lengths(plan.workflow, node))
                rest_s = max(rest_s, whole_s - first_s)
        run.to_end = min(ends) - rest_s < report.ttft_slo_s
        run.deadline = report.submitted + (min(ends) if run.to_end else report.ttft_slo_s)

    def limits(self, model: str) -> ModelLimits | None:
        """Return the limits of a model that is deployed or hosted, or None.

        How long its tokens are, its replicas know better than the deployment.
        """
        if model not in self._limits:
            limits, replica = self._models.get(model), self._fleet.first(model)
            if replica is not None:
                longest = max(s.replica.longest_token_bytes for s in self._fleet if s.replica.model == model)
                deployed = limits or ModelLimits(replica.context_tokens)
                limits = ModelLimits(deployed.context_tokens, longest, deployed.embeds)
            elif limits is None:
                return None  # whoever names models that nobody has fills no memory
            self._limits[model] = limits
        return self._limits[model]

    def hosted(self) -> Set[str]:
        """Return the models that are deployed or hosted."""
        return {*self._models, *self._fleet.models}

    def replicas_changed(self, model: str) -> bool:
        """Another replica of a model is the fastest, or has the longest tokens, maybe.

        Returns whether it is the first one, and the model was asked about before: nobody knew then how long calls take.
        """
        self._fastest.pop(model, None)
        self._capacity.clear()  # of all on the same cards
        self._limits.pop(model, None)
        is_first = model in self._without and self._fleet.hosts(model)
        if is_first:
            self._without.remove(model)
            self.knowledge.forget_paths()
        return is_first

    def execution(self, model: str, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        """First token and completion on an idle replica of the fastest kind; 0 while none is known."""
        fastest = self._fastest.get(model) or self._find_fastest(model)
        if fastest is None:
            return 0.0, 0.0
        figure = fastest[0]
        first_s = figure.first_token_s + prompt_tokens * figure.prompt_token_s
        return first_s, first_s + output_tokens * figure.output_token_s

    def card_s(self, model: str, prompt_tokens: float, output_tokens: float) -> float:
        """Seconds that a call takes of a replica of the fastest kind whose slots are all taken; 0 while none is known.

        A step gives all who decode a token, so each has its part of it; a prompt is processed for one alone.
        """
        fastest = self._fastest.get(model) or self._find_fastest(model)
        if fastest is None:
            return 0.0
        return _card_s(*fastest, prompt_tokens, output_tokens)

    def work(self, run: RunRecord) -> Work:
        """Return what a run is expected to take of the cards in all."""
        return self.knowledge.work(self.shape(run), run.decided)

    def capacity(self, model: str) -> float:
        """Seconds of a card of the fastest kind that the replicas of a model give in a second, all slots taken."""
        known = self._capacity.get(model)
        if known is None:
            known = self._capacity[model] = self._find_capacity(model)
        return known

    def _find_capacity(self, model: str) -> float:
        fleet, least_s = self._fleet, self.card_s(model, *TYPICAL)
        total = 0.0
        for state in fleet.of(model):
            replica = state.replica
            own_s = _card_s(fleet.latency(replica), fleet.law(replica), replica.slots, *TYPICAL)
            total += least_s / own_s / len(state.card.replicas) if own_s > 0 else 0.0
        return total

    def _find_fastest(self, model: str) -> tuple[Latency, StepLaw | None, int] | None:
        states = self._fleet.of(model)
        if not states:
            self._without.add(model)
            return None
        fleet = self._fleet
        speeds = [(fleet.latency(s.replica), fleet.law(s.replica), s.replica.slots) for s in states]
        found = self._fastest[model] = min(speeds, key=lambda speed: execution_s(speed[0], *TYPICAL))
        return found

    def _make(self, call: CallRecord) -> CallView:
        node, run, knowledge = call.node, call.run, self.knowledge
        workflow = run.plan.workflow
        shape = self.shape(run)
        model = node.model or ""
        history = knowledge.nodes.of(workflow, node.name)
        prompt, output = history.lengths(node.max_tokens)
        limits = self.limits(model) if node.prompt_bytes else None
        least = least_prompt_tokens(node.prompt_bytes, limits) if limits else 0
        after_s, deadline, answers = 0.0, run.deadline, node.answers and not run.to_end
        if deadline is not None and not answers:
            after_s = knowledge.after_s(shape, node.name, run.decided)
        submitted = run.report.submitted
        first_s, whole_s = self.execution(model, prompt, output)
        prompt_tokens, home, cached = max(least, round(prompt)), run.homes.get(model), 0
        if home is not None:
            cached = min(round(history.cached_tokens), max(prompt_tokens - 1, 0))
        return CallView(
            node.key,
            workflow,
            node.name,
            model,
            run.plan.tenant,
            run.plan.priority,
            submitted + (call.report.runnable_at or 0.0),
            deadline,
            prompt_tokens,
            output,
            answers,
            call.tries + 1,
            after_s,
            first_s if answers else whole_s,  # own_s
            None if deadline is None else submitted + (deadline - submitted) * knowledge.share(shape, node.name),
            call.parked,
            submitted,
            run.begun,
            run.excess,
            home if cached else None,
            cached,
            0.0 if deadline is None else knowledge.work(shape, run.decided).total_s,
        )


def _card_s(latency: Latency, law: StepLaw | None, slots: int, prompt_tokens: float, output_tokens: float) -> float:
    if law is None or slots == 1:
        return execution_s(latency, prompt_tokens, output_tokens / slots)
    context = slots * (prompt_tokens + output_tokens / 2)
    return law.prompt_s(round(prompt_tokens)) + output_tokens * law.decode_s(slots, context) / slots
