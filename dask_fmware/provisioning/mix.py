"""The cheapest mix of cards for a load, as a small integer programme (SciPy's HiGHS).

    minimise    price of all replicas + a part of the price of those to be started + penalty of what is not served
    subject to  every class of calls is served by the kinds that are fast enough for it,
                no kind is loaded beyond its replicas, replicas fit on the cards and in the bounds of their model

Whole numbers are replicas, fractions are loads: a class may be served by several kinds. This is the programme of
Melange (Griggs et al. 2024) with bounds, shared cards, what runs already, and more than one model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import ceil, inf
from typing import Any

import numpy as np

from dask_fmware.errors import SpecError
from dask_fmware.provisioning.capacity import CallClass, bearing
from dask_fmware.provisioning.inventory import Inventory, Kind
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Mix", "cheapest_mix"]

# What a replica's calls cost that are not served, in prices of the dearest: less than about a thousandth of them is
# left out sooner than another replica started, and is no shortage.
SHORTAGE = 1000.0
START_SHARE = 0.1  # of an hour's price, for each start: equal mixes do not take turns
RELATIVE_GAP = 0.005
LEAST_LOAD = 1e-3  # of a replica, for calls that are few: the solver takes less for nothing
NODES = 500  # of the search, and no time: a busy machine must not plan otherwise than an idle one
FEW = 10  # replicas at the least, up to which the search is exact without asking how many there would be
MANY = 40  # replicas, above which fractions are rounded up: less than one replica too many for each kind in use
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Mix:
    """Replicas by kind, and what each class of calls puts on them."""

    replicas: Mapping[Key, int]
    load: Mapping[tuple[int, Key], float]  # (class, kind) -> replicas that it fills
    unserved: Mapping[int, float]  # class -> calls a second for which there is no card
    cost_per_hour: float
    best_effort: tuple[int, ...] = field(default=())  # classes whose budget no kind meets


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
        Kinds that may not grow beyond `current`.

    Raises
    ------
    SpecError
        SciPy is not installed.
    """
    headroom, current = headroom or {}, current or {}
    kinds = list(inventory.kinds.values())
    at = {kind.key: i for i, kind in enumerate(kinds)}
    n = len(kinds)
    pairs: list[tuple[int, int, float]] = []  # class, kind, calls a second of a replica
    best_effort = []
    for c, calls in enumerate(classes):
        bearings = [(at[kind.key], bearing(kind, calls)) for kind in inventory.of(calls.model)]
        fit = [(k, b.rate) for k, b in bearings if b.batch > 0]
        if not fit and bearings:
            best_effort.append(c)
            least = min(b.execution_s for _, b in bearings)
            fit = [(k, b.rate) for k, b in bearings if b.execution_s <= 1.05 * least]
        pairs.extend((c, k, rate) for k, rate in fit)
    best = [max((rate for c, _, rate in pairs if c == i), default=1.0) for i in range(len(classes))]
    wanted = np.array([
        max(calls.rate * headroom.get(calls.model, 1.0), LEAST_LOAD * rate)
        for calls, rate in zip(classes, best, strict=True)
    ])  # fmt: skip
    if (made := _without_choice(inventory, options, classes, kinds, pairs, wanted, barred, current)) is not None:
        return replace(made, best_effort=tuple(best_effort))
    # variables: replicas of each kind, starts of each kind, load of each pair, shortage of each class
    loads, short = 2 * n, 2 * n + len(pairs)
    width = short + len(classes)
    price = np.array([max(kind.price_per_hour, 1e-6) for kind in kinds])
    largest = float(price.max(initial=1.0)) * SHORTAGE
    cost = np.zeros(width)
    cost[:n], cost[n : 2 * n] = price, START_SHARE * price
    cost[short:] = [largest / min(rate, asked) for rate, asked in zip(best, wanted, strict=True)]
    rows: list[tuple[dict[int, float], float, float]] = []
    served: list[dict[int, float]] = [{short + c: 1.0} for c in range(len(classes))]
    filled: list[dict[int, float]] = [{k: -1.0} for k in range(n)]
    for j, (c, k, rate) in enumerate(pairs):
        served[c][loads + j] = rate
        filled[k][loads + j] = 1.0
    rows += [(row, float(wanted[c]), np.inf) for c, row in enumerate(served)]
    rows += [(row, -np.inf, 0.0) for row in filled]
    for k, kind in enumerate(kinds):
        rows.append(({n + k: 1.0, k: -1.0}, -float(current.get(kind.key, 0)), np.inf))
    for name, card in inventory.cards.items():
        on = {k: 1.0 for k, kind in enumerate(kinds) if kind.accelerator == name}
        if on:
            rows.append((on, 0.0, float(card.places)))
    for model in inventory.models:
        bounds = options.bounds(model)
        mine = {k: 1.0 for k, kind in enumerate(kinds) if kind.model == model}
        most = np.inf if bounds.max_replicas is None else float(bounds.max_replicas)
        rows.append((mine, float(_reachable(inventory, model, bounds.min_replicas, barred, current)), most))
    if options.max_cost_per_hour is not None:
        rows.append(({k: float(price[k]) for k in range(n)}, 0.0, options.max_cost_per_hour))
    upper = np.full(width, np.inf)
    for k, kind in enumerate(kinds):
        upper[k] = inventory.cards[kind.accelerator].places
        if kind.key in barred:
            upper[k] = min(upper[k], current.get(kind.key, 0))
    fewest = sum(each / rate for each, rate in zip(wanted, best, strict=True))
    solution = _solve(cost, rows, upper, n, width, few=fewest <= FEW)
    counts = {kind.key: round(float(solution[k])) for k, kind in enumerate(kinds)}
    return Mix(
        counts,
        {
            (c, kinds[k].key): float(solution[loads + j])
            for j, (c, k, _) in enumerate(pairs)
            if solution[loads + j] > 1e-9
        },
        {
            c: float(solution[short + c])
            for c in range(len(classes))
            if solution[short + c] > (1 + START_SHARE) / SHORTAGE * min(best[c], wanted[c])
        },
        float(sum(price[k] * counts[kind.key] for k, kind in enumerate(kinds))),
        tuple(best_effort),
    )


def _without_choice(
    inventory: Inventory,
    options: Provisioning,
    classes: Sequence[CallClass],
    kinds: Sequence[Kind],
    pairs: Sequence[tuple[int, int, float]],
    wanted: Any,
    barred: frozenset[Key],
    current: Mapping[Key, int],
) -> Mix | None:
    """The mix where each model has one kind of replica and everything fits: there is nothing to choose then."""
    if len(inventory.models) < len(kinds) or len({c for c, _, _ in pairs}) < len(classes):
        return None
    load = {(c, kinds[k].key): float(wanted[c]) / rate for c, k, rate in pairs}
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
    cost = sum(max(kind.price_per_hour, 1e-6) * counts[kind.key] for kind in kinds)
    if cost > (options.max_cost_per_hour or inf) or any(used[n] > card.places for n, card in inventory.cards.items()):
        return None
    return Mix(counts, load, {}, float(cost))


def _reachable(inventory: Inventory, model: str, least: int, barred: frozenset[Key], current: Mapping[Key, int]) -> int:
    """Bound from below that holds although some kinds may not grow for now."""
    room = sum(
        current.get(kind.key, 0) if kind.key in barred else inventory.cards[kind.accelerator].places
        for kind in inventory.of(model)
    )
    return min(least, room)


def _solve(
    cost: Any, rows: Sequence[tuple[dict[int, float], float, float]], upper: Any, whole: int, width: int, *, few: bool
) -> Any:
    try:
        optimize, sparse = import_module("scipy.optimize"), import_module("scipy.sparse")
    except ImportError as error:
        raise SpecError("provisioning needs SciPy; install dask-fmware[provision]") from error
    entries = [(i, j, value) for i, (row, _, _) in enumerate(rows) for j, value in row.items()]
    i, j, values = (np.array(part) for part in zip(*entries, strict=True))
    matrix = sparse.csr_array((values, (i, j)), shape=(len(rows), width))
    least, most = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])

    def solved(integrality: Any, most: Any) -> Any:
        return optimize.milp(
            cost,
            integrality=integrality,
            bounds=optimize.Bounds(np.zeros(width), upper),
            constraints=optimize.LinearConstraint(matrix, least, most),
            options={"mip_rel_gap": RELATIVE_GAP, "node_limit": NODES},
        )

    def rounded(parts: Any) -> Any:
        """Fractions rounded up, or None where that breaks a bound; tried once more with room in each for it."""
        for more_room in (True, False):
            up = parts.copy()
            up[: 2 * whole] = np.ceil(parts[: 2 * whole] - 1e-6)
            sums = matrix @ up
            if np.all(sums >= least - 1e-6) and np.all(sums <= most + 1e-6):
                return up
            if more_room:
                added = np.maximum(matrix[:, :whole].toarray(), 0.0) @ np.ceil(parts[:whole] % 1.0 - 1e-6)
                tighter = np.where(np.isfinite(most) & (most > 0), np.maximum(most - added, least), most)
                again = solved(np.zeros(width), tighter)
                if again.x is None:
                    return None
                parts = again.x
        return None

    integrality = np.zeros(width)
    integrality[:whole] = 1
    if few and (exact := solved(integrality, most)).status == 0:
        return exact.x
    fractions = solved(np.zeros(width), most)
    if fractions.x is None:
        raise SpecError(
            f"no mix of cards keeps all bounds ({fractions.message}); lower min_replicas or raise max_cost_per_hour"
        )
    if fractions.x[:whole].sum() > MANY and (found := rounded(fractions.x)) is not None:
        return found
    exact = solved(integrality, most)
    if exact.status == 0:
        return exact.x
    found = rounded(fractions.x)  # the search has ended early, and what it has by then may be far off
    if found is None and exact.x is None:
        raise SpecError(f"no mix of cards keeps all bounds ({exact.message}); lower min_replicas or add cards")
    candidates = [x for x in (found, exact.x) if x is not None]
    return min(candidates, key=lambda x: float(cost @ x))
