"""The cards there are, and what a replica of each model on each of them is: speed, memory, load time, price.

Made once from a deployment, profiles and the catalog. It refuses what cannot be planned with: a price that is
missing where prices decide, bounds that the cards cannot hold, a model that fits no card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from dask_fmware.errors import DeploymentError
from dask_fmware.profile.known import KnownSpeed, known_speed
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.record import Profile
from dask_fmware.profile.replica import Limits
from dask_fmware.spec.deployment import Deployment, Latency, ModelDeployment
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["CardType", "Inventory", "Kind", "inventory_of", "law_of_latency"]

USABLE = 0.9  # of a card's memory, for weights and KV cache
KV_SHARE = 0.05  # of a card's memory that must be left for the KV cache
EXACT = 1e-6  # of the currency, within which sums of prices are equal; the solver of the mix is no finer


@dataclass(frozen=True, slots=True)
class CardType:
    """Cards of one type."""

    name: str
    cards: int
    replicas_per_card: int = 1
    price_per_hour: float = 1.0  # of a card

    @property
    def places(self) -> int:
        """Replicas that all cards of the type hold."""
        return self.cards * self.replicas_per_card

    def needed(self, replicas: int) -> int:
        """Cards that so many replicas take, the last one perhaps not in full."""
        return ceil(replicas / self.replicas_per_card)


@dataclass(frozen=True, slots=True)
class Kind:
    """A model on a card type."""

    model: str
    accelerator: str
    law: StepLaw | None  # None: its speed is not known yet
    limits: Limits
    load_s: float
    price_per_hour: float  # of a replica: its share of the card
    source: str = ""  # of the speed

    @property
    def key(self) -> tuple[str, str]:
        """Model and accelerator."""
        return self.model, self.accelerator


@dataclass(frozen=True, slots=True)
class Inventory:
    """All cards and kinds of replicas, by their names."""

    cards: Mapping[str, CardType]
    kinds: Mapping[tuple[str, str], Kind]

    def of(self, model: str) -> list[Kind]:
        """Kinds of a model, cheapest first."""
        mine = [kind for kind in self.kinds.values() if kind.model == model]
        return sorted(mine, key=lambda kind: (kind.price_per_hour, kind.accelerator))

    def needed(self, replicas: Mapping[tuple[str, str], int]) -> dict[str, int]:
        """Cards that replicas take, by type."""
        on: Counter[str] = Counter()
        for (_, accelerator), count in replicas.items():
            on[accelerator] += count
        return {name: card.needed(on[name]) for name, card in self.cards.items()}

    def cost_per_hour(self, replicas: Mapping[tuple[str, str], int]) -> float:
        """Price of the cards that replicas take: one that several share is paid once, and in full by a single one."""
        return sum(count * self.cards[name].price_per_hour for name, count in self.needed(replicas).items())

    def is_within(self, replicas: Mapping[tuple[str, str], int], most_per_hour: float | None) -> bool:
        """Whether the cards that replicas take cost no more than a bound; None: there is none."""
        return most_per_hour is None or self.cost_per_hour(replicas) <= most_per_hour + EXACT

    @property
    def models(self) -> list[str]:
        """Names of all models, sorted."""
        return sorted({model for model, _ in self.kinds})


def inventory_of(
    deployment: Deployment, options: Provisioning | None = None, profiles: Sequence[Profile] = ()
) -> Inventory:
    """Return what a deployment can be provisioned with.

    Speeds are those of `dask_fmware.profile.known`. Where none is, replicas tell theirs when they are ready.

    Raises
    ------
    DeploymentError
        A price is missing where prices decide, bounds ask for more than the cards hold, or a model fits no card.
    """
    options = options or deployment.provisioning or Provisioning()
    _check_models(deployment, options)
    cards = {
        name: CardType(name, card.cards, card.replicas_per_card, _price(deployment, name))
        for name, card in deployment.accelerators.items()
    }
    kinds: dict[tuple[str, str], Kind] = {}
    for model, spec in deployment.models.items():
        known = {on: known_speed(deployment, model, on, profiles) or KnownSpeed("not known yet") for on in spec.on}
        for accelerator in _fitting(deployment, model, spec, known):
            kinds[model, accelerator] = _kind(deployment, options, model, cards[accelerator], known[accelerator])
    inventory = Inventory(cards, kinds)
    _check_room(inventory, options)
    return inventory


def _kind(deployment: Deployment, options: Provisioning, model: str, card: CardType, known: KnownSpeed) -> Kind:
    spec = deployment.models[model]
    placement = spec.on[card.name]
    slots = placement.slots or spec.slots
    memory_gb, kv_tokens = deployment.accelerators[card.name].memory_gb, placement.kv_tokens
    if kv_tokens is None and memory_gb and known.weight_bytes and known.kv_bytes_per_token:
        free = USABLE * 1e9 * memory_gb / card.replicas_per_card - known.weight_bytes
        kv_tokens = max(int(free / known.kv_bytes_per_token), 1)
    return Kind(
        model,
        card.name,
        law_of_latency(known.latency) if known.latency is not None else known.law,
        Limits(slots, max(known.step_tokens or 2048, slots + 1), kv_tokens),
        (known.load_s if known.load_s is not None else options.load_s) + options.boot_s,
        card.price_per_hour / card.replicas_per_card,
        known.source,
    )


def law_of_latency(latency: Latency) -> StepLaw:
    """Step-time law of a latency figure: every step as long as one output token, whatever the batch.

    The step of the first token is as long as the figure says, or as one more token where that is longer.

    >>> law = law_of_latency(Latency(first_token_s=0.1, output_token_s=0.02))
    >>> law.step_s(0, 8, 4000), law.step_s(100, 0, 0)
    (0.02, 0.1)
    """
    prompt = Curve((latency.prompt_token_s,))
    beyond_s = max(latency.first_token_s - latency.output_token_s, 0.0)  # that step is one of the fixed ones
    return StepLaw(latency.output_token_s, prefill_fixed_s=beyond_s, prefill=prompt)


def _price(deployment: Deployment, name: str) -> float:
    price = deployment.accelerators[name].price_per_hour
    if price is not None:
        return price
    if len(deployment.accelerators) > 1:
        raise DeploymentError(
            f"accelerators.{name}: price_per_hour is missing; the provisioner compares "
            f"{', '.join(deployment.accelerators)} by price: give one for each"
        )
    return 1.0


def _check_models(deployment: Deployment, options: Provisioning) -> None:
    for model in options.models:
        if model not in deployment.models:
            raise DeploymentError(
                f"provisioning.models.{model}: no such model (deployed: {', '.join(deployment.models)})"
            )


def _fitting(deployment: Deployment, model: str, spec: ModelDeployment, known: Mapping[str, KnownSpeed]) -> list[str]:
    """Accelerators whose memory holds a model, as far as both are known."""
    needed: dict[str, float] = {}
    shares: dict[str, float] = {}
    for name in spec.on:
        card, weights = deployment.accelerators[name], known[name].weight_bytes
        size_gb = spec.memory_gb if spec.memory_gb is not None else weights / 1e9 if weights else None
        if size_gb is not None and card.memory_gb is not None:
            needed[name], shares[name] = size_gb, card.memory_gb / card.replicas_per_card
    fitting = [name for name in spec.on if name not in shares or needed[name] <= shares[name] * (1 - KV_SHARE)]
    if not fitting:
        largest = max(shares, key=lambda name: shares[name])
        card = deployment.accelerators[largest]
        share = f", shared by {card.replicas_per_card} replicas" if card.replicas_per_card > 1 else ""
        raise DeploymentError(
            f"model '{model}' fits no card: it needs {needed[largest]:.3g} GB and some {KV_SHARE:.0%} for its KV "
            f"cache, the largest it may use is {largest} with {card.memory_gb:g} GB{share}; add a larger accelerator "
            f"under models.{model}.on, or quantise the model"
        )
    return fitting


def _check_room(inventory: Inventory, options: Provisioning) -> None:
    wanted: dict[str, int] = {}
    for model in inventory.models:
        least = options.bounds(model).min_replicas
        room = sum(inventory.cards[kind.accelerator].places for kind in inventory.of(model))
        if least > room:
            raise DeploymentError(
                f"provisioning: model '{model}' wants at least {least} replicas, its cards hold {room} "
                f"({', '.join(kind.accelerator for kind in inventory.of(model))}); lower min_replicas or add cards"
            )
        wanted[model] = least
    places = sum(card.places for card in inventory.cards.values())
    if sum(wanted.values()) > places:
        raise DeploymentError(
            f"provisioning: the models want at least {sum(wanted.values())} replicas together "
            f"({', '.join(f'{m}: {n}' for m, n in wanted.items() if n)}), all cards hold {places}; lower min_replicas"
        )
