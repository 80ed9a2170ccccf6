"""The cards there are, and what a replica of each model on each of them is: speed, memory, load time, price.

Made once from a deployment, profiles and the catalog. It refuses what cannot be planned with: a price that is
missing where prices decide, bounds that the cards cannot hold, a model that fits no card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dask_fmware.errors import DeploymentError
from dask_fmware.profile.known import KnownSpeed, known_speed
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.record import Profile
from dask_fmware.profile.replica import Limits
from dask_fmware.spec.deployment import Deployment, Latency, ModelDeployment
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["CardType", "Inventory", "Kind", "inventory_of", "law_of_latency"]

KV_SHARE = 0.05  # of a card's memory that must be left for the KV cache


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
        fitting = _fitting(deployment, model, spec)
        for accelerator in fitting:
            placement, card = spec.on[accelerator], cards[accelerator]
            known = known_speed(deployment, model, accelerator, profiles) or KnownSpeed("not known yet")
            law = law_of_latency(known.latency) if known.latency is not None else known.law
            slots = placement.slots or spec.slots
            step_tokens = known.step_tokens or 2048
            load_s = known.load_s if known.load_s is not None else options.load_s
            kinds[model, accelerator] = Kind(
                model,
                accelerator,
                law,
                Limits(slots, max(step_tokens, slots + 1), placement.kv_tokens),
                load_s + options.boot_s,
                card.price_per_hour / card.replicas_per_card,
                known.source,
            )
    inventory = Inventory(cards, kinds)
    _check_room(inventory, options)
    return inventory


def law_of_latency(latency: Latency) -> StepLaw:
    """Step-time law of a latency figure: every step as long as one output token, whatever the batch.

    >>> law_of_latency(Latency(first_token_s=0.1, output_token_s=0.02)).step_s(0, 8, 4000)
    0.02
    """
    prompt = Curve((latency.prompt_token_s,))
    return StepLaw(latency.output_token_s, prefill_fixed_s=latency.first_token_s, prefill=prompt)


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


def _fitting(deployment: Deployment, model: str, spec: ModelDeployment) -> list[str]:
    """Accelerators whose memory holds a model, as far as both are known."""
    needed = spec.memory_gb
    if needed is None:
        return list(spec.on)
    sizes = {name: deployment.accelerators[name].memory_gb for name in spec.on}
    shares = {
        name: size / deployment.accelerators[name].replicas_per_card for name, size in sizes.items() if size is not None
    }
    fitting = [name for name in spec.on if name not in shares or needed <= shares[name] * (1 - KV_SHARE)]
    if not fitting:
        largest = max(shares, key=lambda name: shares[name])
        split = deployment.accelerators[largest].replicas_per_card
        share = f", shared by {split} replicas" if split > 1 else ""
        raise DeploymentError(
            f"model '{model}' fits no card: it needs {needed:g} GB and some {KV_SHARE:.0%} for its KV cache, the "
            f"largest it may use is {largest} with {sizes[largest]:g} GB{share}; add a larger accelerator under "
            f"models.{model}.on, or quantise the model"
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
