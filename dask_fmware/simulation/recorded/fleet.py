"""The cluster of a log, as far as its replicas said: cards, models, step-time laws, and the way to an engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.record import LawRecord, LiveProfile
from dask_fmware.simulation.alone import alone_s
from dask_fmware.simulation.recorded.facts import CallFacts
from dask_fmware.simulation.sampled import SampledNode, SampledRun
from dask_fmware.simulation.scenario import CardScenario, FleetScenario, Hosting, ModelScenario
from dask_fmware.spec.deployment import TenantOptions

__all__ = ["delivery_s", "fleet_of"]

STEP_TOKENS = 2048  # of an engine that does not say


def fleet_of(replicas: Iterable[Replica], tenants: Mapping[str, float]) -> FleetScenario:
    """Return the cluster that replicas were of, without the way to its engines; tenants by name, with their weights."""
    cards: dict[str, set[str]] = {}
    slots: dict[str, int | None] = {}
    hostings: dict[tuple[str, str], list[Replica]] = {}
    longest: dict[str, int] = {}  # token of each model, bytes
    for replica in replicas:
        cards.setdefault(replica.accelerator, set()).add(replica.card)
        slots[replica.accelerator] = replica.card_slots
        hostings.setdefault((replica.model, replica.accelerator), []).append(replica)
        longest[replica.model] = max(longest.get(replica.model, 1), replica.longest_token_bytes)
    models: dict[str, ModelScenario] = {}
    for (model, accelerator), found in hostings.items():
        first, per_card = found[0], max(Counter(replica.card for replica in found).values())
        profile = LiveProfile.from_wire(first.profile) if first.profile is not None else None
        step_tokens = (profile.step_tokens if profile is not None else None) or STEP_TOKENS
        law = profile.law if profile is not None else _law(first)
        hosting = Hosting(slots=first.slots, law=law, replicas=len(found), per_card=per_card, step_tokens=step_tokens)
        on = models[model].on if model in models else {}
        models[model] = ModelScenario(
            context_tokens=first.context_tokens, longest_token_bytes=longest[model], on={**on, accelerator: hosting}
        )
    return FleetScenario(
        cards={name: CardScenario(count=len(found), slots=slots[name]) for name, found in cards.items()},
        models=models,
        tenants={name: TenantOptions(weight=weight) for name, weight in tenants.items()},
        warm_start=True,
    )


def _law(replica: Replica) -> LawRecord:
    """The law of a replica without a profile: its latency figure, which knows no batching."""
    figure = replica.latency
    return LawRecord.of(
        StepLaw(
            fixed_s=figure.output_token_s,
            prefill_fixed_s=max(figure.first_token_s - figure.output_token_s, 0.0),
            prefill=Curve((figure.prompt_token_s,)),
        )
    )


def delivery_s(fleet: FleetScenario, runs: Iterable[SampledRun], calls: Mapping[str, CallFacts]) -> float:
    """Return the way to the engine or back: half of what the quickest tenth of calls took beyond the step-time law."""
    beyond = []
    for planned, node in [pair for run in runs for pair in _calls_of(run.plan, run.nodes)]:
        facts = calls[planned.key]
        hosting = fleet.models[planned.model or ""].on.get(facts.accelerator)
        if hosting is not None and node.call is not None:
            own_s = alone_s(hosting.step_law, hosting.limits, (node.call,))[1]
            beyond.append(facts.ended_at - facts.started_at - own_s)
    beyond.sort()
    return max(beyond[len(beyond) // 10], 0.0) / 2 if beyond else 0.0


def _calls_of(plan: RunPlan, nodes: Sequence[SampledNode]) -> Iterator[tuple[PlannedNode, SampledNode]]:
    for planned, node in zip(plan.nodes, nodes, strict=True):
        if node.call is not None:
            yield planned, node
        for body in node.bodies:
            yield from _calls_of(body.plan, body.nodes)
