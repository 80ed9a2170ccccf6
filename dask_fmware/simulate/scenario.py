"""What a simulation is of: cards, models, workflows with their lengths, and arrivals, as one document.

It describes; `workload` draws runs from it and `world` plays them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dask_fmware.errors import SpecError
from dask_fmware.model.replica import Replica
from dask_fmware.profile.catalog import find
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.record import LawRecord
from dask_fmware.profile.replica import Limits
from dask_fmware.simulate.distribution import Distribution
from dask_fmware.spec.deployment import Latency, TenantOptions
from dask_fmware.spec.record import Record, complaints, misfit
from dask_fmware.spec.source import SourceError, read

__all__ = [
    "Arrivals",
    "CardScenario",
    "Failure",
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

    count: int = Field(default=1, ge=1)
    slots: int | None = Field(default=None, ge=1, description="calls at once over all replicas of a card; None: shared")
    price_per_hour: float = Field(default=0.0, ge=0)


class PlainLaw(Record):
    """Step time ``w0 + w1*P + w2*B + w3*L + w4*P**2``, seconds."""

    w0: float = Field(ge=0)
    w1: float = Field(default=0.0, ge=0)
    w2: float = Field(default=0.0, ge=0)
    w3: float = Field(default=0.0, ge=0)
    w4: float = Field(default=0.0, ge=0)


class Hosting(Record):
    """A model on one type of card: one replica on every card."""

    slots: int = Field(default=1, ge=1)
    step_tokens: int = Field(default=2048, ge=1, description="token budget of an engine step")
    kv_tokens: int | None = Field(default=None, ge=1, description="tokens that the KV cache holds")
    plain: PlainLaw | None = None
    law: LawRecord | None = None
    catalog: tuple[str, str] | None = Field(default=None, description="model and accelerator in the bundled catalog")
    load_s: float = Field(default=0.0, ge=0, description="seconds from the start of the simulation to ready")

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
        if self.items is not None and self.rounds is not None:
            raise ValueError("a node has items (map) or rounds (loop), not both")
        if (self.items is not None or self.rounds is not None) and (self.model is None or self.answers):
            raise ValueError("maps and loops are of model nodes that do not answer")
        return self


class ObjectiveScenario(Record):
    """SLO of runs: ``ttft_s``, or ``factor`` times the unloaded TTFT of the path taken plus ``plus_s``.

    Unloaded means alone on a card of type `on`, with the lengths that the run has.
    """

    ttft_s: float | None = Field(default=None, gt=0)
    on: str | None = None
    factor: float = Field(default=1.0, ge=0)
    plus_s: float = Field(default=0.0, ge=0)


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
    """Gamma gaps: `burstiness` is their squared coefficient of variation, 1 is Poisson."""

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
    start_s: float = Field(default=0.0, ge=0, description="of the trace; each seed starts elsewhere if None")


Arrivals = Annotated[WindowArrivals | PoissonArrivals | GammaArrivals | TraceArrivals, Field(discriminator="kind")]


class Failure(Record):
    """A card that is lost at `at_s`, with all of its replicas, and back after `down_s`."""

    card: str
    at_s: float = Field(ge=0)
    down_s: float | None = Field(default=None, gt=0)


class Scenario(Record):
    """Everything that a simulation needs but the policy, the load and the seed."""

    version: Literal[1] = 1
    name: str = "scenario"
    description: str = ""
    cards: dict[str, CardScenario] = Field(min_length=1)
    models: dict[str, ModelScenario] = Field(min_length=1)
    workflows: dict[str, WorkflowScenario] = Field(min_length=1)
    arrivals: Arrivals
    lengths: Literal["drawn", "deterministic"] = "drawn"
    history: int = Field(
        default=50, ge=0, description="finished calls of each node that the runtime knows at the start"
    )
    hop_s: float = Field(default=0.0, ge=0, description="between a node's end and the next one's start")
    tenants: dict[str, TenantOptions] = Field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for model, spec in self.models.items():
            for accelerator in spec.on:
                if accelerator not in self.cards:
                    raise misfit(f"no such card (known: {', '.join(self.cards)})", "models", model, "on", accelerator)
        for name, workflow in self.workflows.items():
            for node_name, node in workflow.nodes.items():
                if node.model is not None and node.model not in self.models:
                    known = ", ".join(self.models)
                    raise misfit(f"no model '{node.model}' (known: {known})", "workflows", name, "nodes", node_name)
        return self

    def replicas(self) -> Iterator[tuple[Replica, Hosting]]:
        """Every replica with how it is hosted."""
        for accelerator, card in self.cards.items():
            for index in range(card.count):
                for model, spec in self.models.items():
                    if (hosting := spec.on.get(accelerator)) is None:
                        continue
                    name = f"{model}-{accelerator}-{index:04d}"
                    yield (
                        Replica(
                            replica_id=name,
                            name=name,
                            model=model,
                            accelerator=accelerator,
                            card=f"{accelerator}-{index}",
                            slots=hosting.slots,
                            context_tokens=spec.context_tokens,
                            longest_token_bytes=1,
                            engine="emulated",
                            engine_version="1",
                            latency=hosting.latency,
                            card_slots=card.slots,
                        ),
                        hosting,
                    )


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a YAML or JSON file.

    Raises
    ------
    SpecError
        The file cannot be read, or is not a sound scenario; names the place.
    """
    try:
        data = read(Path(path).read_text(encoding="utf-8"), "json" if str(path).endswith(".json") else "yaml")
    except (OSError, UnicodeError, SourceError) as error:
        raise SpecError(f"scenario {path}: {error}") from error
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        found = "; ".join(str(complaint) for complaint in complaints(error)[:5])
        raise SpecError(f"scenario {path}: {found}") from error
