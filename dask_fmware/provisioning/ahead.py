"""Which cards to buy or rent for a load, before anything runs: the mix, its cost, what it attains, runners-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod

from dask_fmware.errors import SpecError
from dask_fmware.profile.assumptions import Assumptions, of_unsized
from dask_fmware.profile.budgets import Budgets, budgets
from dask_fmware.profile.record import Profile
from dask_fmware.provisioning.capacity import CallClass
from dask_fmware.provisioning.inventory import Inventory, inventory_of
from dask_fmware.provisioning.mix import NoMixError
from dask_fmware.provisioning.sizing import Sizing, size, together
from dask_fmware.spec.columns import in_columns
from dask_fmware.spec.deployment import Deployment
from dask_fmware.spec.provisioning import Provisioning
from dask_fmware.spec.slo import SLO
from dask_fmware.spec.workflow import Workflow

__all__ = ["FleetPlan", "Load", "Offer", "classes_of", "fleet_plan", "offers"]

MANY_CARDS = 100_000  # of each type


@dataclass(frozen=True, slots=True)
class Load:
    """A workflow, how often it is asked for, and its objective."""

    workflow: Workflow
    rate: float  # runs a second
    slo: SLO | None = None  # instead of the workflow's own


@dataclass(frozen=True, slots=True)
class Offer:
    """One mix of cards."""

    title: str
    replicas: Mapping[tuple[str, str], int]  # (model, accelerator) -> replicas
    cards: Mapping[str, int]  # accelerator -> cards; part of the last one may be free
    cost_per_hour: float  # of these cards
    goodput: float  # expected share of runs in time, of the workflow that fares worst
    load: float  # of the busiest model's replicas

    def to_wire(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "title": self.title,
            "replicas": [[model, accelerator, n] for (model, accelerator), n in self.replicas.items()],
            "cards": dict(self.cards),
            "cost_per_hour": self.cost_per_hour,
            "goodput": self.goodput,
            "load": self.load,
        }


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The best offer and the runners-up; prints as a table."""

    offers: tuple[Offer, ...]  # what attains the quantile by price, then what does not by goodput
    quantile: float
    rates: Mapping[str, float]  # runs a second by workflow
    assumed: tuple[str, ...]
    enough: Offer | None = None  # where no offer attains the quantile: what would with more cards, if anything does
    impossible: tuple[str, ...] = ()  # titles of runners-up that cannot keep all bounds
    unsized: tuple[str, ...] = ()  # maps planned with 1 item, as nobody has said how many they have

    @property
    def best(self) -> Offer:
        """The cheapest that attains the quantile, else the one that attains most."""
        return self.offers[0]

    def __str__(self) -> str:
        asked = ", ".join(f"{rate:g} runs/s of {name}" for name, rate in self.rates.items())
        head = ("", "cards", "replicas", "price/hour", "goodput", "load")
        offers = self.offers if self.enough is None else (*self.offers, self.enough)
        rows = [head, *(self._row(offer) for offer in offers)]
        left_out = [f"left out, as cards and bounds conflict: {', '.join(self.impossible)}"] if self.impossible else []
        each = " of each workflow" if len(self.rates) > 1 else ""
        attained = "" if self.best.goodput >= self.quantile else f"; NO mix of these cards attains {self.quantile:.0%}"
        return "\n".join([
            f"for {asked}, {self.quantile:.0%} of the runs{each} in time{attained}",
            *in_columns(rows), *left_out, *of_unsized(self.unsized),
            "assumed:", *(f"  - {text}" for text in self.assumed),
        ])  # fmt: skip

    __repr__ = __str__

    @staticmethod
    def _row(offer: Offer) -> tuple[str, ...]:
        cards = ", ".join(f"{count:g} {name}" for name, count in offer.cards.items()) or "none"
        replicas = ", ".join(f"{n} {model} on {on}" for (model, on), n in offer.replicas.items())
        return (offer.title, cards, replicas, f"{offer.cost_per_hour:.2f}", f"{offer.goodput:.1%}", f"{offer.load:.0%}")


def fleet_plan(
    deployment: Deployment,
    loads: Sequence[Load],
    profiles: Sequence[Profile] = (),
    *,
    options: Provisioning | None = None,
    assumptions: Assumptions | None = None,
) -> FleetPlan:
    """Plan the cards for some loads.

    Parameters
    ----------
    deployment
        Models, where they may run, cards and prices. The number of cards is the most that there may be.
    loads
        Workflows with their rates.
    profiles
        What was measured; the deployment's latency figures and the catalog stand in for what is missing.
    options
        Quantile and bounds; left out: those of the deployment.
    assumptions
        Token counts, odds and counts to plan with.

    Raises
    ------
    SpecError
        An objective is below the best possible, nothing is known of a model's speed, or bounds and cards conflict.
    """
    options = options or deployment.provisioning or Provisioning()
    inventory = inventory_of(deployment, options, profiles)
    classes, assumed = classes_of(deployment, loads, profiles, assumptions)
    unknown = sorted({f"{k.model} on {k.accelerator}" for k in inventory.kinds.values() if k.law is None})
    if unknown:
        inventory = Inventory(inventory.cards, {k: kind for k, kind in inventory.kinds.items() if kind.law is not None})
        assumed = (*assumed, f"left out, as nothing is known of their speed: {', '.join(unknown)}")
    slots = ", ".join(f"{k.model} on {k.accelerator} {k.limits.slots}" for k in inventory.kinds.values())
    assumed = (*assumed, f"calls at once on a replica (slots): {slots}")
    found, impossible = offers(inventory, classes, options)
    enough = None if found[0].goodput >= options.quantile else _with_more_cards(inventory, classes, options)
    told = assumptions or Assumptions()
    unsized = dict.fromkeys(name for load in loads for name in told.unsized(load.workflow))
    return FleetPlan(found, options.quantile, _rates(loads), assumed, enough, impossible, tuple(unsized))


def _rates(loads: Sequence[Load]) -> dict[str, float]:
    """Runs a second by workflow; one may come in several loads, with an objective for each."""
    rates: dict[str, float] = {}
    for load in loads:
        rates[load.workflow.name] = rates.get(load.workflow.name, 0.0) + load.rate
    return rates


def classes_of(
    deployment: Deployment, loads: Sequence[Load], profiles: Sequence[Profile], assumptions: Assumptions | None
) -> tuple[list[CallClass], tuple[str, ...]]:
    """Calls of the loads, and what was taken for granted.

    Raises
    ------
    SpecError
        An objective is below what idle replicas on the quickest cards need.
    """
    classes: list[CallClass] = []
    assumed: dict[str, None] = {}
    for load in loads:
        if not 0 < load.rate < inf:
            raise SpecError(f"workflow '{load.workflow.name}': rate={load.rate:g}; give runs a second above 0")
        split = budgets(load.workflow, deployment, profiles, slo=load.slo, assumptions=assumptions, to_come=True)
        _check_feasible(split)
        assumed |= dict.fromkeys(split.assumed)
        for node in split.nodes:
            first_s = min((s for bound, s in node.budgets_s.items() if bound in node.first_tokens), default=inf)
            end_s = min((s for bound, s in node.budgets_s.items() if bound not in node.first_tokens), default=inf)
            answers = first_s < inf
            classes.append(
                CallClass(
                    load.workflow.name, node.node, node.model, load.rate * node.executions,
                    float(node.prompt_tokens), float(max(node.output_tokens, 1)),
                    first_s if answers else end_s, answers, end_s if answers else inf,
                )
            )  # fmt: skip
    return classes, tuple(assumed)


def _check_feasible(split: Budgets) -> None:
    for bound, deadline_s in split.deadlines_s.items():
        best_s = split.quickest_s[bound]
        if best_s > deadline_s:
            raise SpecError(
                f"workflow '{split.workflow.name}': {bound}={deadline_s:g} is below the best possible, {best_s:.3g} s "
                f"on idle cards of the quickest type (critical path: {' > '.join(split.critical_path)}); "
                f"ask for more than {best_s:.3g} s, shorten prompts or outputs, or add a quicker accelerator"
            )


def offers(
    inventory: Inventory, classes: Sequence[CallClass], options: Provisioning
) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
    """The best mix, each card type alone, and the best without each type that the best mix uses.

    Returns
    -------
    tuple
        What can be, the best first, and the titles of what cannot keep all bounds, or host all models.

    Raises
    ------
    NoMixError
        No mix of all card types keeps all bounds.
    """
    best = size(inventory, classes, options)
    # sizes are found step by step, so a narrower choice may end cheaper
    found = [_offer("any mix", inventory, classes, best)]
    names = list(inventory.cards)
    choices: dict[tuple[str, ...], str] = {(name,): f"{name} alone" for name in names}
    for name in found[0].cards:
        choices.setdefault(tuple(n for n in names if n != name), f"without {name}")
    impossible = []
    for kept, title in choices.items():
        part = _only(inventory, kept)
        if set(part.models) != set(inventory.models) or len(kept) == len(names):
            continue
        try:
            offer = _offer(title, inventory, classes, size(part, classes, options))
        except NoMixError:
            impossible.append(title)
            continue
        if not {c.model for c in classes} <= {model for model, _ in offer.replicas}:
            impossible.append(title)  # too few cards for a replica of each: no run would end
        elif all(offer.replicas != known.replicas for known in found):
            found.append(offer)
    made = sorted(found, key=lambda o: (o.goodput < options.quantile, o.cost_per_hour, -o.goodput))
    good = [o for o in made if o.goodput >= options.quantile]
    rest = sorted((o for o in made if o.goodput < options.quantile), key=lambda o: -o.goodput)
    return (*good, *rest), tuple(impossible)


def _with_more_cards(inventory: Inventory, classes: Sequence[CallClass], options: Provisioning) -> Offer | None:
    """The best mix if there were any number of cards; None if that does not attain the quantile either."""
    cards = {name: replace(card, cards=MANY_CARDS) for name, card in inventory.cards.items()}
    more = Inventory(cards, inventory.kinds)
    offer = _offer("with more cards", more, classes, size(more, classes, options))
    return offer if offer.goodput >= options.quantile else None


def _only(inventory: Inventory, names: Sequence[str]) -> Inventory:
    cards = {name: inventory.cards[name] for name in names}
    return Inventory(cards, {key: kind for key, kind in inventory.kinds.items() if key[1] in cards})


def _offer(title: str, inventory: Inventory, classes: Sequence[CallClass], sizing: Sizing) -> Offer:
    replicas = {key: n for key, n in sizing.mix.replicas.items() if n}
    return Offer(
        title,
        replicas,
        {name: count for name, count in inventory.needed(replicas).items() if count},
        inventory.cost_per_hour(replicas),
        _goodput(classes, sizing.attainment),
        max(sizing.load.values(), default=0.0),
    )


def _goodput(classes: Sequence[CallClass], attainment: Mapping[str, float]) -> float:
    """Expected share of runs in time of the workflow that fares worst; a run is late if it is at any of its models."""
    return min((prod(attainment[model] for model in models) for models in together(classes)), default=1.0)
