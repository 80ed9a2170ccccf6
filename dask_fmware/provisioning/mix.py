"""The cheapest mix of cards for a load, as a small integer programme.

    minimise    price of all cards + a part of the price of replicas to be started + penalty of what is not served
    subject to  every class of calls is served by the kinds that are fast enough for it,
                no kind is loaded beyond its replicas, replicas fit on the cards and in the bounds of their model

A penalty that no mix is without does not count beside the prices: one model that is short of cards must not make the
replicas of all others a trifle.

Whole numbers are replicas, fractions are loads: a class may be served by several kinds. This is the programme of
Melange (Griggs et al. 2024) with bounds, shared cards, what runs already, and more than one model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf

from dask_fmware.errors import SpecError
from dask_fmware.provisioning.capacity import CallClass, bearing
from dask_fmware.provisioning.inventory import Inventory, Kind
from dask_fmware.provisioning.programme import InfeasibleError, Programme
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Mix", "NoMixError", "cheapest_mix"]

# What a replica's calls cost that are not served, in prices of the dearest: less than about a thousandth of them is
# left out sooner than another replica started, and is no shortage.
SHORTAGE = 1000.0
BELOW = 10.0  # what a replica costs that a minimum asks for and that is not there, in prices of the dearest
START_SHARE = 0.1  # of an hour's price, for each start: equal mixes do not take turns
BESIDE = 0.05  # of its share of the price, for a replica on a card that is paid for already: it is not for nothing
LEAST_LOAD = 1e-3  # of a replica, for calls that are few: the solver takes less for nothing
FEW = 10  # replicas at the least, up to which the search is exact without asking how many there would be
Key = tuple[str, str]


class NoMixError(SpecError):
    """Cards and bounds conflict: no mix keeps `min_replicas` of all models, the places there are and the cost."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Replicas by kind, and what each class of calls puts on them."""

    replicas: Mapping[Key, int]
    load: Mapping[tuple[int, Key], float]  # (class, kind) -> replicas that it fills
    unserved: Mapping[int, float]  # class -> calls a second for which there is no card
    cost_per_hour: float  # of the cards that they take
    best_effort: tuple[int, ...] = field(default=())  # classes whose budget no kind meets
    below: Mapping[str, int] = field(default_factory=dict)  # model -> replicas that its minimum asks for in vain


def cheapest_mix(
    inventory: Inventory,
    classes: Sequence[CallClass],
    options: Provisioning,
    *,
    headroom: Mapping[str, float] | None = None,
    current: Mapping[Key, int] | None = None,
    barred: frozenset[Key] = frozenset(),
) -> Mix:
    """Return the mix.

    Parameters
    ----------
    inventory, classes, options
        Cards, calls, bounds.
    headroom
        By model, what the calls are multiplied by: room for variance.
    current
        Replicas that are there; starting others costs a little, so that what is there is preferred.
    barred
        Kinds that may not grow beyond `current`. While there are some, minimums are kept as far as can be: what one
        model may not start takes cards and money from others.

    Raises
    ------
    NoMixError
        No mix keeps all bounds though nothing is barred.
    SpecError
        SciPy is not installed.
    """
    demand = _demand(inventory, classes, headroom or {})
    current = current or {}
    made = _without_choice(inventory, options, demand, barred, current)
    return made if made is not None else _chosen(inventory, options, demand, barred, current)


@dataclass(frozen=True, slots=True)
class _Demand:
    """What is asked for, and what each kind could do about it; classes and kinds go by their index."""

    kinds: tuple[Kind, ...]
    pairs: tuple[tuple[int, int, float], ...]  # class, kind that may serve it, calls a second of a replica
    best: tuple[float, ...]  # calls a second of the best replica for each class
    wanted: tuple[float, ...]  # calls a second of each class, with room for variance
    best_effort: tuple[int, ...]  # classes whose budget no kind meets


def _demand(inventory: Inventory, classes: Sequence[CallClass], headroom: Mapping[str, float]) -> _Demand:
    kinds = tuple(inventory.kinds.values())
    at = {kind.key: k for k, kind in enumerate(kinds)}
    pairs: list[tuple[int, int, float]] = []
    best_effort = []
    for c, calls in enumerate(classes):
        bearings = [(at[kind.key], bearing(kind, calls)) for kind in inventory.of(calls.model)]
        fit = [(k, b.rate) for k, b in bearings if b.batch > 0]
        if not fit and bearings:
            best_effort.append(c)
            least = min(b.execution_s for _, b in bearings)
            fit = [(k, b.rate) for k, b in bearings if b.execution_s <= 1.05 * least]
        pairs.extend((c, k, rate) for k, rate in fit)
    best = tuple(max((rate for c, _, rate in pairs if c == i), default=1.0) for i in range(len(classes)))
    wanted = tuple(
        max(calls.rate * headroom.get(calls.model, 1.0), LEAST_LOAD * rate)
        for calls, rate in zip(classes, best, strict=True)
    )
    return _Demand(kinds, tuple(pairs), best, wanted, tuple(best_effort))


def _price(kind: Kind) -> float:
    return max(kind.price_per_hour, 1e-6)


def _chosen(
    inventory: Inventory, options: Provisioning, demand: _Demand, barred: frozenset[Key], current: Mapping[Key, int]
) -> Mix:
    """The mix as the solution of the programme."""
    kinds, pairs, best, wanted = demand.kinds, demand.pairs, demand.best, demand.wanted
    n, classes = len(kinds), range(len(wanted))
    starts, loads, short = n, 2 * n, 2 * n + len(pairs)  # first columns; before them the replicas of each kind
    below = short + len(wanted)
    end = below + len(inventory.models)
    names = [name for name, card in inventory.cards.items() if card.replicas_per_card > 1]
    shared = {name: end + i for i, name in enumerate(names)}  # columns: cards of which replicas take a part
    programme = Programme(
        end + len(shared), whole=[*range(n), *shared.values()], raised=[*range(2 * n), *shared.values()]
    )
    prices = [_price(kind) for kind in kinds]
    for k, price in enumerate(prices):
        programme.cost[k] = price * (BESIDE if kinds[k].accelerator in shared else 1.0)
        programme.cost[starts + k] = START_SHARE * price
    for c in classes:
        programme.penalty[short + c] = max([1.0, *prices]) * SHORTAGE / min(best[c], wanted[c])
        rates = {loads + j: rate for j, (of, _, rate) in enumerate(pairs) if of == c}
        programme.row({short + c: 1.0, **rates}, least=wanted[c])
    for k in range(n):
        programme.row({k: -1.0, **{loads + j: 1.0 for j, (_, on, _) in enumerate(pairs) if on == k}}, most=0.0)
    for k, kind in enumerate(kinds):
        programme.row({starts + k: 1.0, k: -1.0}, least=-float(current.get(kind.key, 0)))
        places = inventory.cards[kind.accelerator].places
        programme.upper[k] = min(places, current.get(kind.key, 0)) if kind.key in barred else places
    for name, card in inventory.cards.items():
        if on := {k: 1.0 for k, kind in enumerate(kinds) if kind.accelerator == name}:
            programme.row(on, least=0.0, most=float(card.places))
    for m, model in enumerate(inventory.models):
        bounds = options.bounds(model)
        mine = {k: 1.0 for k, kind in enumerate(kinds) if kind.model == model}
        programme.penalty[below + m] = max([1.0, *prices]) * BELOW
        programme.upper[below + m] = bounds.min_replicas if barred else 0.0
        programme.row({**mine, below + m: 1.0}, least=float(bounds.min_replicas))
        if bounds.max_replicas is not None:
            programme.row(mine, most=float(bounds.max_replicas))
    paid = {k: price for k, price in enumerate(prices) if kinds[k].accelerator not in shared}
    for name, column in shared.items():
        card = inventory.cards[name]
        on = {k: 1.0 for k, kind in enumerate(kinds) if kind.accelerator == name}
        programme.row({**on, column: -float(card.replicas_per_card)}, most=0.0)
        programme.cost[column] = paid[column] = max(card.price_per_hour, 1e-6)
    if options.max_cost_per_hour is not None:
        programme.row(paid, least=0.0, most=options.max_cost_per_hour)
    fewest = sum(each / rate for each, rate in zip(wanted, best, strict=True))
    try:
        solution = [float(value) for value in programme.solved(is_small=fewest <= FEW)]
    except InfeasibleError as error:
        raise NoMixError(
            f"no mix of cards keeps all bounds ({error}); lower min_replicas, raise max_cost_per_hour or add cards"
        ) from error
    counts = {kind.key: round(solution[k]) for k, kind in enumerate(kinds)}
    filled = {(c, kinds[k].key): solution[loads + j] for j, (c, k, _) in enumerate(pairs)}
    missing = {c: solution[short + c] for c in classes}
    return Mix(
        counts,
        {place: load for place, load in filled.items() if load > 1e-9},
        {c: each for c, each in missing.items() if each > (1 + START_SHARE) / SHORTAGE * min(best[c], wanted[c])},
        inventory.cost_per_hour(counts),
        demand.best_effort,
        _below(inventory, options, counts),
    )


def _below(inventory: Inventory, options: Provisioning, counts: Mapping[Key, int]) -> dict[str, int]:
    """By model, replicas that are missing of its minimum."""
    there: Counter[str] = Counter()
    for (model, _), count in counts.items():
        there[model] += count
    return {m: less for m in inventory.models if (less := options.bounds(m).min_replicas - there[m]) > 0}


def _without_choice(
    inventory: Inventory, options: Provisioning, demand: _Demand, barred: frozenset[Key], current: Mapping[Key, int]
) -> Mix | None:
    """The mix where each model has one kind of replica and everything fits: there is nothing to choose then."""
    kinds, pairs = demand.kinds, demand.pairs
    if len(inventory.models) < len(kinds) or len({c for c, _, _ in pairs}) < len(demand.wanted):
        return None
    load = {(c, kinds[k].key): demand.wanted[c] / rate for c, k, rate in pairs}
    counts = {}
    for kind in kinds:
        bounds = options.bounds(kind.model)
        filled = ceil(sum(each for (_, key), each in load.items() if key == kind.key) - 1e-6)
        counts[kind.key] = max(filled, bounds.min_replicas)
        most = current.get(kind.key, 0) if kind.key in barred else counts[kind.key]
        if counts[kind.key] > min(most, inf if bounds.max_replicas is None else bounds.max_replicas):
            return None
    used = Counter(dict.fromkeys(inventory.cards, 0))
    for (_, accelerator), count in counts.items():
        used[accelerator] += count
    cost = inventory.cost_per_hour(counts)
    if cost > (options.max_cost_per_hour or inf) or any(used[n] > card.places for n, card in inventory.cards.items()):
        return None
    return Mix(counts, load, {}, cost, demand.best_effort)
