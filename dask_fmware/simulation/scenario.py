"""What a simulation is of: cards, models, workflows with their lengths, and arrivals, as one document.

It describes; `workload` draws runs from it and `world` plays them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dask_fmware.errors import SpecError
from dask_fmware.model.replica import Replica
from dask_fmware.profile.catalog import find
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord
from dask_fmware.profile.replica import Limits
from dask_fmware.simulation.distribution import Distribution, Spread
from dask_fmware.spec.deployment import Latency, TenantOptions
from dask_fmware.spec.documents import load_document
from dask_fmware.spec.record import Record, misfit

__all__ = [
    "Arrivals",
    "CardScenario",
    "Failure",
    "FleetScenario",
    "Hosting",
    "ModelScenario",
    "NodeScenario",
    "ObjectiveScenario",
    "Scenario",
    "WorkflowScenario",
    "load_scenario",
]


class CardScenario(Record):
    """Cards of one type."""

    count: int = Field(default=1, ge=0, description="in use at the start")
    most: int | None = Field(default=None, ge=0, description="that can be had in all; left out: as many as `count`")
    slots: int | None = Field(default=None, ge=1, description="calls at once over all replicas of a card; None: shared")
    price_per_hour: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _within_most(self) -> Self:
        if self.most is not None and self.most < self.count:
            raise ValueError(f"most ({self.most}) is below count ({self.count}); raise most or lower count")
        return self

    @property
    def limit(self) -> int:
        """Cards that can be in use at once."""
        return self.count if self.most is None else self.most


class PlainLaw(Record):
    """Step time ``w0 + w1*P + w2*B + w3*L + w4*P**2``, seconds."""

    w0: float = Field(ge=0)
    w1: float = Field(default=0.0, ge=0)
    w2: float = Field(default=0.0, ge=0)
    w3: float = Field(default=0.0, ge=0)
    w4: float = Field(default=0.0, ge=0)


class Hosting(Record):
    """A model on one type of card."""

    replicas: int | None = Field(default=None, ge=0, description="at the start; left out: as many as the cards take")
    per_card: int = Field(default=1, ge=1, description="replicas that a card takes, which share its speed")

    slots: int = Field(default=1, ge=1)
    step_tokens: int = Field(default=2048, ge=1, description="token budget of an engine step")
    kv_tokens: int | None = Field(default=None, ge=1, description="tokens that the KV cache holds")
    plain: PlainLaw | None = None
    law: LawRecord | None = None
    catalog: tuple[str, str] | None = Field(default=None, description="model and accelerator in the bundled catalog")
    load_s: Distribution = Field(default=Spread(fixed=0.0), description="seconds from the start of a replica to ready")
    failed_starts: float = Field(default=0.0, ge=0, lt=1, description="share of starts that fail, after `load_s`")

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        if sum(part is not None for part in (self.plain, self.law, self.catalog)) != 1:
            raise ValueError("a hosting needs exactly one of plain, law and catalog")
        return self

    @cached_property
    def step_law(self) -> StepLaw:
        """Its step-time law."""
        if self.plain is not None:
            return StepLaw.plain(**self.plain.model_dump())
        return self.law.law() if self.law is not None else find(*(self.catalog or ("", ""))).step_law

    @cached_property
    def limits(self) -> Limits:
        """What its engine takes on at once."""
        return Limits(self.slots, self.step_tokens, self.kv_tokens)

    @cached_property
    def latency(self) -> Latency:
        """The latency figure that a worker measures when it is alone: one short and one longer prompt."""
        law = self.step_law
        short, long = 32, 1024
        slope_s = max(0.0, law.step_s(long, 0, 0) - law.step_s(short, 0, 0)) / (long - short)
        return Latency(
            first_token_s=max(0.0, law.step_s(short, 0, 0) - short * slope_s),
            prompt_token_s=slope_s,
            output_token_s=law.step_s(0, 1, 512),
        )


class ModelScenario(Record):
    """How one model is served."""

    context_tokens: int = Field(default=32_768, ge=16)
    longest_token_bytes: int = Field(
        default=1, ge=1, description="bounds prompts from below, of which plans tell bytes; drawn ones tell tokens"
    )
    on: dict[str, Hosting] = Field(min_length=1)


class NodeScenario(Record):
    """One node of a workflow: a call of `model`, or plain code of so many `seconds`."""

    model: str | None = None
    after: tuple[str, ...] = ()
    prompt: Distribution | None = None
    output: Distribution | None = None
    max_tokens: int | None = Field(default=None, ge=1, description="bound of the output; left out: of its distribution")
    seconds: Distribution | None = None
    when: dict[str, str] = Field(default_factory=dict, description="deciding node -> branch on which this node is")
    decides: dict[str, float] | None = Field(default=None, description="branch -> probability")
    items: Distribution | None = Field(default=None, description="a map: calls at once")
    rounds: Distribution | None = Field(default=None, description="a loop: calls one after the other")
    answers: bool = False

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.model is not None and (self.prompt is None or self.output is None):
            raise ValueError("a model node needs the distributions of prompt and output tokens")
        if self.model is None and any(part is not None for part in (self.prompt, self.output, self.max_tokens)):
            raise ValueError("prompt, output and max_tokens are of model nodes: say which model")
        if self.items is not None and self.rounds is not None:
            raise ValueError("a node has items (map) or rounds (loop), not both")
        if (self.items is not None or self.rounds is not None) and (self.model is None or self.answers):
            raise ValueError("maps and loops are of model nodes that do not answer")
        if self.decides and not _are_shares(self.decides.values()):
            raise misfit("probabilities are not below 0, and not all of them 0", "decides")
        return self


class ObjectiveScenario(Record):
    """SLO of runs: ``ttft_s``, ``e2e_s``, or ``factor`` times the unloaded TTFT of the path taken plus ``plus_s``.

    Unloaded means alone on a card of type `on`, with the lengths that the run has. With ``whole`` the last bounds the
    whole run, by its unloaded time to the end.
    """

    ttft_s: float | None = Field(default=None, gt=0)
    e2e_s: float | None = Field(default=None, gt=0, description="to the end of the run, instead of its first token")
    on: str | None = None
    factor: float = Field(default=1.0, ge=0)
    plus_s: float = Field(default=0.0, ge=0)
    whole: bool = Field(default=False, description="of the end of the run; for factor and plus_s")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.ttft_s is not None and (self.e2e_s is not None or self.whole):
            raise misfit("runs have one bound here: leave out ttft_s, or e2e_s and whole", "ttft_s")
        name = "ttft_s" if self.ttft_s is not None else "e2e_s" if self.e2e_s is not None else None
        if name is not None and (self.on is not None or self.factor != 1.0 or self.plus_s):
            raise misfit(f"runs have one bound here: leave out {name}, or on, factor and plus_s", name)
        if not self.factor and not self.plus_s:
            raise misfit("a factor of 0 needs plus_s above 0", "factor")
        return self

    def reference(self, cards: Iterable[str]) -> str | None:
        """Type of card that the unloaded path is of: the first one if none is named; None if there is no such path."""
        return None if self.ttft_s is not None or self.e2e_s is not None else self.on or next(iter(cards))


class WorkflowScenario(Record):
    """Nodes in topological order, and how the workflow's runs are spread."""

    nodes: dict[str, NodeScenario] = Field(min_length=1)
    slo: ObjectiveScenario | None = None
    share: float = Field(default=1.0, ge=0, description="of the arrivals, relative to other workflows")
    tenant: str = "default"
    priority: int = 0
    on_miss: Literal["finish", "reject"] = "finish"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        seen: set[str] = set()
        for name, node in self.nodes.items():
            for other in (*node.after, *node.when):
                if other not in seen:
                    raise misfit(f"'{other}' is no node above it", "nodes", name)
            for decider, branch in node.when.items():
                if branch not in (self.nodes[decider].decides or {}):
                    raise misfit(f"node '{decider}' decides no branch '{branch}'", "nodes", name, "when")
            seen.add(name)
        return self


class WindowArrivals(Record):
    """So many runs at uniformly random times of a window: a Poisson process of which the number is known."""

    kind: Literal["window"]
    count: int = Field(ge=1)
    window_s: float = Field(gt=0)


class PoissonArrivals(Record):
    """A Poisson process."""

    kind: Literal["poisson"]
    rate: float | None = Field(default=None, gt=0, description="runs a second; None: of the load")
    duration_s: float = Field(gt=0)


class GammaArrivals(Record):
    """Gamma gaps: `burstiness` is their squared coefficient of variation, 1 is Poisson.

    It is about how many runs come together, and so at most as many as come in `duration_s`.
    """

    kind: Literal["gamma"]
    rate: float | None = Field(default=None, gt=0)
    duration_s: float = Field(gt=0)
    burstiness: float = Field(default=4.0, gt=0)


class TraceArrivals(Record):
    """Arrivals and the lengths of answers, of a CSV with ``arrival_s,prompt_tokens,output_tokens``."""

    kind: Literal["trace"]
    path: str
    time_scale: float | None = Field(default=None, gt=0, description="1 plays as recorded, 0.1 ten times as fast")
    duration_s: float | None = Field(default=None, gt=0, description="of the simulation")
    start_s: float | None = Field(
        default=None, ge=0, description="on the trace's clock; left out: with duration_s each seed starts elsewhere"
    )


Arrivals = Annotated[WindowArrivals | PoissonArrivals | GammaArrivals | TraceArrivals, Field(discriminator="kind")]


class Failure(Record):
    """A card that is lost with all of its replicas, or slows down, and is as before after `down_s`.

    Replicas of a card that comes back are loaded again, which takes their `load_s`. Where failures of a card overlap,
    it is lost until all that took it are over, and as slow as the latest says that is not over.
    """

    card: str = Field(description="accelerator and number, from 0: A100-0; what is taken has the lowest free one")
    at_s: float = Field(ge=0)
    down_s: float | None = Field(default=None, gt=0, description="left out: for good")
    slow: float | None = Field(default=None, gt=0, description="not lost: steps take so many times as long")


class FleetScenario(Record):
    """Cards, the models on them, and what befalls them."""

    cards: dict[str, CardScenario] = Field(min_length=1)
    models: dict[str, ModelScenario] = Field(min_length=1)
    hop_s: float = Field(default=0.0, ge=0, description="between a node's end and the next one's start")
    tenants: dict[str, TenantOptions] = Field(default_factory=dict)
    delivery_s: float = Field(
        default=0.0, ge=0, description="from a decision to the engine, and from the engine's word to the router"
    )
    failures: tuple[Failure, ...] = ()
    warm_start: bool = Field(default=False, description="replicas of the start are loaded already")

    @model_validator(mode="after")
    def _hosts(self) -> Self:
        for model, spec in self.models.items():
            for accelerator in spec.on:
                if accelerator not in self.cards:
                    raise misfit(f"no such card (known: {', '.join(self.cards)})", "models", model, "on", accelerator)
        for number, failure in enumerate(self.failures):
            accelerator, _, index = failure.card.rpartition("-")
            card = self.cards.get(accelerator)
            if card is None or index not in map(str, range(card.limit)):
                known = ", ".join(f"{name}-0 to {name}-{card.limit - 1}" for name, card in self.cards.items())
                raise misfit(f"no card '{failure.card}' (known: {known})", "failures", number, "card")
        return self

    def placement(self) -> Iterator[tuple[str, str]]:
        """Model and card of each replica at the start; on the emptiest cards where there is a choice."""
        for accelerator, card in self.cards.items():
            load = [0] * card.count
            for model, spec in self.models.items():
                if (hosting := spec.on.get(accelerator)) is None:
                    continue
                room = card.count * hosting.per_card
                wanted = room if hosting.replicas is None else hosting.replicas
                if wanted > room:
                    raise SpecError(
                        f"model '{model}' wants {wanted} replicas on {card.count} cards of type '{accelerator}', of "
                        f"which each takes {hosting.per_card}: raise count or per_card, or lower replicas"
                    )
                while wanted > 0:  # one on each card before any has a second
                    for index in sorted(range(card.count), key=lambda i: (load[i], i))[:wanted]:
                        load[index] += 1
                        yield model, f"{accelerator}-{index}"
                    wanted -= card.count

    def replica(self, model: str, accelerator: str, card: str, place: int = 0) -> Replica:
        """Return a replica of a model on a card; `place` counts those of the model there."""
        spec = self.models[model]
        hosting = spec.on[accelerator]
        number = int(card.rpartition("-")[2]) + place * self.cards[accelerator].limit
        name = f"{model}-{accelerator}-{number:04d}"
        return Replica(
            replica_id=name,
            name=name,
            model=model,
            accelerator=accelerator,
            card=card,
            slots=hosting.slots,
            context_tokens=spec.context_tokens,
            longest_token_bytes=spec.longest_token_bytes,
            engine="emulated",
            engine_version="1",
            latency=hosting.latency,
            card_slots=self.cards[accelerator].slots,
        )


class Scenario(FleetScenario):
    """Everything that a simulation needs but the policy, the load and the seed."""

    version: Literal[1] = 1
    name: str = "scenario"
    description: str = ""
    workflows: dict[str, WorkflowScenario] = Field(min_length=1)
    arrivals: Arrivals
    lengths: Literal["drawn", "deterministic"] = "drawn"
    history: int = Field(
        default=50, ge=0, description="finished calls of each node that the runtime knows at the start"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, workflow in self.workflows.items():
            for node_name, node in workflow.nodes.items():
                if node.model is not None and node.model not in self.models:
                    known = ", ".join(self.models)
                    raise misfit(f"no model '{node.model}' (known: {known})", "workflows", name, "nodes", node_name)
            reference = workflow.slo.reference(self.cards) if workflow.slo is not None else None
            called = [self.models[node.model].on for node in workflow.nodes.values() if node.model is not None]
            if reference is not None and any(reference not in on for on in called):
                hosts = [card for card in self.cards if all(card in on for on in called)]
                raise misfit(
                    f"no card '{reference}' that hosts all models of the workflow, by which its objective is reckoned "
                    f"(such cards: {', '.join(hosts) or 'none; give ttft_s or e2e_s'})", "workflows", name, "slo", "on",
                )  # fmt: skip
        if not _are_shares(workflow.share for workflow in self.workflows.values()):
            raise misfit("all workflows have a share of 0, so nothing arrives", "workflows")
        return self


def _are_shares(weights: Iterable[float]) -> bool:
    """Whether something can be drawn by such weights."""
    weights = list(weights)
    return min(weights) >= 0.0 and max(weights) > 0.0


def load_scenario(source: str | os.PathLike[str] | Mapping[str, Any]) -> Scenario:
    """Read a scenario from a YAML or JSON file, from such a text, or from a dictionary of the same form.

    Raises
    ------
    SpecError
        It cannot be read, or is no sound scenario; names file, line and value. What is a record, a deployment or a
        workflow is told what takes it.
    """
    try:
        return load_document(Scenario, source, SpecError, "scenario")
    except SpecError:
        from dask_fmware.simulation.mistaken import instead_of_scenario

        if (instead := instead_of_scenario(source)) is None:
            raise
        raise SpecError(instead) from None
