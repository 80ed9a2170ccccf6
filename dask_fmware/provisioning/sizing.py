"""How many replicas of which kinds a load needs so that the wanted share of calls is in time.

Between the mix, which knows averages, and the objective, which is about a quantile: the room that variance needs
follows from how many slots share the load, and how many slots there are follows from the room, so both are
worked out in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from dask_fmware.provisioning.capacity import CallClass, bearing, late_share, load_at
from dask_fmware.provisioning.inventory import Inventory
from dask_fmware.provisioning.mix import Key, Mix, cheapest_mix
from dask_fmware.spec.provisioning import Provisioning

__all__ = ["Sizing", "attained", "size", "together"]

ROUNDS = 4
EVEN = 0.02  # change of the room, below which it is settled
MORE = 1.03  # times the room, where that was too little


@dataclass(frozen=True, slots=True)
class Sizing:
    """Replicas for a load."""

    mix: Mix
    attainment: Mapping[str, float]  # model -> expected share of its calls in time
    load: Mapping[str, float]  # model -> share of its capacity that is used


def size(
    inventory: Inventory,
    classes: Sequence[CallClass],
    options: Provisioning,
    *,
    current: Mapping[Key, int] | None = None,
    barred: frozenset[Key] = frozenset(),
    burstiness: Mapping[str, float] | None = None,
    pressure: Mapping[str, float] | None = None,
    backlog: Mapping[str, float] | None = None,
) -> Sizing:
    """Return the cheapest replicas that are expected to serve `options.quantile` of the calls in time.

    Parameters
    ----------
    inventory, classes, options, current, barred
        As for `mix.cheapest_mix`.
    burstiness, pressure
        By model: variance over mean of arrivals, and how much more room than expected was found to be needed.
    backlog
        By model: calls a second that wait to be worked off, as a share of those that come; they take the room.
    """
    burstiness, pressure, backlog = burstiness or {}, pressure or {}, backlog or {}
    misses = _misses(classes, 1 - options.quantile)
    models = dict.fromkeys(calls.model for calls in classes)
    room = {model: max(1.3 * pressure.get(model, 1.0), 1 + backlog.get(model, 0.0)) for model in models}
    seen: set[tuple[tuple[Key, int], ...]] = set()
    mix = cheapest_mix(inventory, classes, options, headroom=room, current=current, barred=barred)
    for _ in range(ROUNDS):
        wanted = {
            model: max(
                pressure.get(model, 1.0)
                / load_at(
                    *_servers(inventory, classes, mix, model),
                    miss=misses[model],
                    burstiness=burstiness.get(model, 1.0),
                ),
                1 + backlog.get(model, 0.0),
            )
            for model in room
        }
        if all(abs(wanted[model] - room[model]) <= EVEN * room[model] for model in room):
            break
        state = tuple(sorted(mix.replicas.items()))
        if state in seen:  # two mixes take turns; the roomier one is safe
            wanted = {model: max(wanted[model], room[model]) for model in room}
        seen.add(state)
        room = wanted
        mix = cheapest_mix(inventory, classes, options, headroom=room, current=current, barred=barred)
        if state in seen and tuple(sorted(mix.replicas.items())) == state:
            break
    load, attainment = attained(inventory, classes, mix, burstiness)
    for _ in range(ROUNDS):  # what was taken for settled may still be a little short
        missing = {classes[c].model for c in (*mix.unserved, *mix.best_effort)}
        short = [model for model in room if model not in missing and 1 - attainment[model] > misses[model]]
        if not short:
            break
        room = {model: each * (MORE if model in short else 1.0) for model, each in room.items()}
        mix = cheapest_mix(inventory, classes, options, headroom=room, current=current, barred=barred)
        load, attainment = attained(inventory, classes, mix, burstiness)
    return Sizing(mix, attainment, load)


def _misses(classes: Sequence[CallClass], miss: float) -> dict[str, float]:
    """Share of a model's calls that may be late: a run is late if it is at any of the models of its workflow."""
    most = dict.fromkeys((calls.model for calls in classes), 1)
    for models in together(classes):
        for model in models:
            most[model] = max(most[model], len(models))
    return {model: miss / count for model, count in most.items()}


def together(classes: Sequence[CallClass]) -> list[set[str]]:
    """Models of each workflow: a run is late if it is at any of them."""
    models: dict[str, set[str]] = {}
    for calls in classes:
        if calls.workflow:
            models.setdefault(calls.workflow, set()).add(calls.model)
    return list(models.values())


def attained(
    inventory: Inventory, classes: Sequence[CallClass], mix: Mix, burstiness: Mapping[str, float] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Load of each model's replicas, and the share of its calls that are expected to be in time."""
    loads, attainment = {}, {}
    for model in dict.fromkeys(calls.model for calls in classes):
        replicas = sum(count for key, count in mix.replicas.items() if key[0] == model)
        missing = sum(mix.unserved.get(c, 0.0) for c, calls in enumerate(classes) if calls.model == model)
        asked = sum(calls.rate for calls in classes if calls.model == model)
        filled = _filled(inventory, classes, mix, model)
        loads[model] = min(filled / replicas, 1.0) if replicas else 1.0
        if missing > 0.01 * asked:
            loads[model] = 1.0
        servers, rate_each, patience_s = _servers(inventory, classes, mix, model)
        late = late_share(servers, loads[model], servers * rate_each, patience_s, (burstiness or {}).get(model, 1.0))
        hopeless = sum(classes[c].rate for c in mix.best_effort if classes[c].model == model)
        attainment[model] = (1 - late) * (1 - hopeless / asked) if asked else 1.0
    return loads, attainment


def _filled(inventory: Inventory, classes: Sequence[CallClass], mix: Mix, model: str) -> float:
    """Replicas that the calls of a model fill, without any room."""
    total = 0.0
    for c, calls in enumerate(classes):
        if calls.model != model:
            continue
        shares = {key: load for (number, key), load in mix.load.items() if number == c}
        served = sum(load * bearing(inventory.kinds[key], calls).rate for key, load in shares.items())
        if served > 0:
            total += sum(shares.values()) * min(calls.rate / served, 1.0)
    return total


def _servers(inventory: Inventory, classes: Sequence[CallClass], mix: Mix, model: str) -> tuple[float, float, float]:
    """Slots that share the load of a model, calls a second of each, and how long calls can wait."""
    slots = rate = weight = 0.0
    patience_s, asked = 0.0, 0.0
    by_key = {key: count for key, count in mix.replicas.items() if key[0] == model and count}
    for c, calls in enumerate(classes):
        if calls.model != model:
            continue
        shares = {key: load for (number, key), load in mix.load.items() if number == c and key in by_key}
        total = sum(shares.values())
        for key, load in shares.items():
            borne = bearing(inventory.kinds[key], calls)
            part = load / total
            slots += load * max(borne.batch, 1)
            rate += load * borne.rate
            weight += load
            patience_s += calls.rate * part * min(max(borne.spare_s, 0.0), 3600.0)
            asked += calls.rate * part
    if not weight:
        return 1.0, 1.0, inf
    replicas = sum(by_key.values())
    return max(replicas * slots / weight, 1.0), rate / max(slots, 1e-9), patience_s / asked if asked else inf
