"""What a deployment is: which models run on which accelerators, how many replicas, and how calls are routed.

The document says what is wanted. What is there at a moment, the runtime knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, JsonValue, model_validator

from dask_fmware.errors import DeploymentError, SpecError
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware.spec.record import Option, Printable, Record, did_you_mean, misfit

__all__ = [
    "LONGEST_TOKEN_BYTES",
    "Accelerator",
    "Deployment",
    "Latency",
    "LightWorkers",
    "ModelDeployment",
    "Placement",
    "ReplicaSpec",
    "RouterOptions",
    "TenantOptions",
]

LONGEST_TOKEN_BYTES = 256  # no vocabulary that is known has a longer token

Label: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=100)]


class Accelerator(Record):
    """One type of card and how many of them the cluster has."""

    cards: int = Field(ge=1, description="cards of this type")
    replicas_per_card: int = Field(default=1, ge=1, description="replicas (of any models) that may share a card")
    slots_per_card: int | None = Field(
        default=None, ge=1, description="calls at once on a card, over all of its replicas; None: as many as these take"
    )
    cores: list[list[int]] | None = Field(
        default=None, description="CPU cores of each card, for engines that run on cores"
    )
    devices: list[list[int | str]] | None = Field(
        default=None, description="CUDA devices of each card, as CUDA_VISIBLE_DEVICES names them; several share a model"
    )
    price_per_hour: float | None = Field(default=None, ge=0, description="price of one card for one hour")
    memory_gb: float | None = Field(default=None, gt=0, description="memory of one card, 10^9 bytes")

    @model_validator(mode="after")
    def _one_set_a_card(self) -> Self:
        if self.cores is not None and len(self.cores) != self.cards:
            raise ValueError(f"cores lists {len(self.cores)} core sets for {self.cards} cards; give one for each card")
        if self.devices is not None and (len(self.devices) != self.cards or not all(self.devices)):
            raise ValueError(
                f"devices lists {len(self.devices)} sets for {self.cards} cards; give one for each, none empty"
            )
        return self


class Latency(Record):
    """A latency figure of one model on one accelerator: seconds before decoding, and for each token."""

    first_token_s: float = Field(ge=0, description="fixed seconds before the first token")
    prompt_token_s: float = Field(default=0.0, ge=0, description="seconds for each prompt token")
    output_token_s: float = Field(ge=0, description="seconds for each generated token")


class Placement(Record):
    """A model on one accelerator type."""

    replicas: int = Field(default=1, ge=0)
    slots: int | None = Field(default=None, ge=1, description="calls at once on a replica; overrides the model's")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="engine arguments, over the model's")
    latency: Latency | None = Field(default=None, description="replaces the figure measured when the replica starts")
    kv_tokens: int | None = Field(default=None, ge=1, description="tokens that the KV cache holds, for planning")


class ModelDeployment(Record):
    """How one model is served."""

    engine: str = Field(default="llama.cpp", min_length=1)
    slots: int = Field(default=4, ge=1, le=4096, description="calls at once on a replica")
    context_tokens: int = Field(default=2048, ge=16, description="prompt plus output of one call")
    longest_token_bytes: int = Field(
        default=LONGEST_TOKEN_BYTES,
        ge=1,
        description="bounds prompt tokens from below at submission, until a replica tells its own",
    )
    catalog: str | None = Field(
        default=None, min_length=1, description="its name in the bundled catalog, whose figures stand in for a profile"
    )
    memory_gb: float | None = Field(
        default=None, gt=0, description="weights and buffers, 10^9 bytes; the KV cache extra"
    )
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="engine arguments")
    embeds: bool = Field(default=False, description="whether it gives vectors of texts, and writes none")
    hedge: bool = Field(
        default=True,
        description="whether a call that gives no token in time may be tried on another replica; not if it has effects",
    )
    on: dict[Label, Placement] = Field(min_length=1, description="placement by accelerator")


class LightWorkers(Record):
    """Workers that run plain code and hold results."""

    count: int = Field(default=1, ge=1)
    threads: int = Field(default=8, ge=1)


class TenantOptions(Record):
    """How one tenant is treated among the others."""

    weight: float = Field(default=1.0, gt=0, description="share among runs of equal urgency")


class RouterOptions(Record):
    """How calls are routed."""

    policy: str = Field(default="slack", min_length=1, description="name of a routing policy")
    seed: int = Field(default=0, description="of the policies that draw")
    max_attempts: int = Field(default=3, ge=1, le=100, description="tries of one call, on any replicas")
    stall_s: float = Field(
        default=60.0,
        ge=0,
        description="seconds without a token after which a call is tried elsewhere, at least; 0 is never",
    )
    hedge_budget: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of all tokens for calls tried elsewhere as they give no token in time; 0 is never",
    )
    max_held: int = Field(default=100_000, ge=1, description="calls held before submissions are refused")
    keep_reports: int = Field(
        default=10_000, ge=0, description="reports that are kept of runs that nobody holds any more, of about 1 kB each"
    )
    record: str | None = Field(
        default=None, min_length=1, description="file of the scheduler for the event log; .gz compresses it"
    )


class ReplicaSpec(Record):
    """One replica that a deployment asks for."""

    name: str
    model: str
    accelerator: str
    card: str  # empty: one that nobody else has
    cores: tuple[int, ...] | None
    slots: int
    engine: str
    arguments: dict[str, JsonValue]
    context_tokens: int
    latency: Latency | None


class Deployment(Option):
    """Accelerators, models, light workers, router and tenants of one runtime.

    Read it with `from_yaml`, or let `fm.install` and `fm.LocalModelCluster` read a path. All keys with their bounds and
    defaults are printed by ``dask fmware schema deployment``.

    Parameters
    ----------
    accelerators
        By name, a type of card: how many there are, replicas and calls at once on a card, price per hour in your
        currency, memory in 10^9 bytes, cores or CUDA devices.
    models
        By the name that workflows use: engine, its arguments, slots, context in tokens, and replicas by accelerator.
    light_workers
        Workers (of so many threads) that run plain code and hold results.
    router
        Policy, seed, attempts of a call, bounds of held calls and kept reports, event log.
    tenants
        Weights, by name; 1 for whoever is not named.
    provisioning
        Options of ``cluster.adapt`` and `fm.provision`.

    Raises
    ------
    DeploymentError
        File, line, value and what to write instead; made from arguments, key and value.
    """

    error: ClassVar[type[SpecError]] = DeploymentError

    version: Literal[1] = 1
    accelerators: dict[Label, Accelerator] = Field(min_length=1)
    models: dict[Label, ModelDeployment] = Field(min_length=1)
    light_workers: LightWorkers = LightWorkers()
    router: RouterOptions = RouterOptions()
    tenants: dict[Printable, TenantOptions] = Field(default_factory=dict)
    provisioning: Provisioning | None = Field(default=None, description="options of cluster.adapt and fm.provision")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted: dict[str, int] = {}
        named: dict[str, tuple[str, str]] = {}
        for model, spec in self.models.items():
            for accelerator, placement in spec.on.items():
                path = ("models", model, "on", accelerator)
                if accelerator not in self.accelerators:
                    known = ", ".join(self.accelerators)
                    hint = did_you_mean(accelerator, self.accelerators)
                    raise misfit(f"no such accelerator{hint} (known: {known}); add it under accelerators", *path)
                wanted[accelerator] = wanted.get(accelerator, 0) + placement.replicas
                # Labels hold hyphens, so ("a-b", "c") and ("a", "b-c") would name their replicas alike.
                other = named.setdefault(f"{model}-{accelerator}", (model, accelerator))
                if other != (model, accelerator):
                    raise misfit(
                        f"its replicas would have the names of those of models.{other[0]}.on.{other[1]}; "
                        "rename one of the models or accelerators",
                        *path,
                    )
        for name, replicas in wanted.items():
            card = self.accelerators[name]
            room = card.cards * card.replicas_per_card
            if replicas > room:
                raise misfit(
                    f"{replicas} replicas asked for, room for {room} "
                    f"({card.cards} cards x {card.replicas_per_card} replicas_per_card); "
                    "lower the replicas or raise cards or replicas_per_card",
                    "accelerators",
                    name,
                )
        return self

    def to_json(self) -> str:
        """Write the document as JSON, without defaults."""
        from dask_fmware.spec.documents import to_json

        return to_json(self)

    def to_yaml(self) -> str:
        """Write the document as YAML, without defaults."""
        from dask_fmware.spec.documents import to_yaml

        return to_yaml(self)

    def _repr_html_(self) -> str:
        from dask_fmware.spec.drawing import deployment_to_html

        return deployment_to_html(self)

    @classmethod
    def from_json(cls, text: str) -> Deployment:
        """Read a deployment from JSON text; see `dask_fmware.spec.documents.load_deployment`."""
        from dask_fmware.spec.documents import deployment_from_text

        return deployment_from_text(text, "json")

    @classmethod
    def from_yaml(cls, text: str) -> Deployment:
        """Read a deployment from YAML text; see `dask_fmware.spec.documents.load_deployment`."""
        from dask_fmware.spec.documents import deployment_from_text

        return deployment_from_text(text, "yaml")

    @property
    def embedders(self) -> frozenset[str]:
        """Names of the models that embed."""
        return frozenset(name for name, model in self.models.items() if model.embeds)

    def replicas(self) -> Iterator[ReplicaSpec]:
        """Every replica asked for, each with its card; models share cards in the order of the document."""
        used: dict[str, int] = {}
        for model, spec in self.models.items():
            for accelerator, placement in spec.on.items():
                for _ in range(placement.replicas):
                    n = used.get(accelerator, 0)
                    used[accelerator] = n + 1
                    yield self.replica(model, accelerator, n)

    def replica(self, model: str, accelerator: str, n: int) -> ReplicaSpec:
        """The `n`-th replica on an accelerator type, of `model`; cards are filled in turn."""
        card, spec = self.accelerators[accelerator], self.models[model]
        placement = spec.on[accelerator]
        index = n % card.cards
        return ReplicaSpec(
            name=f"{model}-{accelerator}-{n}",
            model=model,
            accelerator=accelerator,
            card=f"{accelerator}-{index}",
            cores=tuple(card.cores[index]) if card.cores is not None else None,
            slots=placement.slots or spec.slots,
            engine=spec.engine,
            arguments={**spec.arguments, **placement.arguments},
            context_tokens=spec.context_tokens,
            latency=placement.latency,
        )
