"""What mixed cards save: the cheapest mix against the best single card type, at equal attainment.

    python -m benchmarks.mixed_cards [--quick]

Speeds are the bundled catalog's, memory the cards', prices as listed by providers (sources in the table). Calls come
in classes of sizes, each with an objective for completion; a fleet has to serve 95 % of them in time by the projection
that the provisioner plans with, a single type like a mix. Nothing is played: the routing that sends each size to its
card is not part of this.

Beside what is saved at the listed prices stands what could be saved at most. For a large load, where whole numbers do
not matter, a mix of two card types costs what each size costs on the card that serves more of it for its price. If the
best size for one type is served R times as well, relative to the other type, as the best for the other, no prices
and no mixture of sizes save more than ``1 - 2 / (1 + sqrt(R))``: half of the cost on either type, at prices
between. A quarter needs R = 2.8.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import inf, sqrt
from typing import Any

from benchmarks.support.environment import environment, write
from dask_fmware.profile.catalog import find
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning import CardType, Inventory, Kind
from dask_fmware.provisioning.capacity import CallClass, bearing
from dask_fmware.provisioning.sizing import size
from dask_fmware.spec.provisioning import Provisioning

QUANTILE = 0.95
RATES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
FACTORS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)  # of the dearer card's price
MOST_CARDS = 10_000
USABLE = 0.9  # of a card's memory, for weights and KV cache
RUNPOD = "RunPod, on demand, March 2026 (deploybase.ai/articles/runpod-gpu-pricing)"
MELANGE = "major clouds, on demand, as listed in Griggs et al. 2024 (Melange), table 1"


@dataclass(frozen=True)
class Fleet:
    """One model and the cards on offer."""

    model: str
    prices: dict[str, float]  # of an hour
    source: str


MEMORY_GB = {
    "RTX-4090": 24, "A10": 24, "L40S": 48, "A100": 80, "H100": 80, "RTX-PRO-6000": 96, "H200": 141, "B200": 180,
}  # fmt: skip
FLEETS = (
    Fleet(
        "Llama-3.1-8B",
        {"RTX-4090": 0.60, "L40S": 1.40, "RTX-PRO-6000": 1.57, "A100": 2.45, "H100": 4.76, "H200": 6.35, "B200": 10.57},
        RUNPOD,
    ),
    Fleet("Llama-3.1-8B", {"L40S": 1.40, "A100": 2.45, "H100": 4.76}, RUNPOD),
    Fleet("Llama-7B", {"A10": 1.01, "A100": 3.67, "H100": 7.516}, MELANGE),
)
CONTEXT = {"Llama-3.1-8B": 131_072, "Llama-7B": 4_096}
# name -> (share of calls, prompt tokens, output tokens)
SIZES: dict[str, tuple[tuple[float, int, int], ...]] = {
    "equal calls": ((1.0, 400, 200),),
    "chats": ((0.5, 60, 120), (0.35, 300, 250), (0.15, 1200, 400)),
    "documents": ((0.6, 2000, 150), (0.4, 3500, 300)),
    "chats and long documents": ((0.5, 60, 120), (0.3, 300, 250), (0.1, 1200, 400), (0.1, 12000, 300)),
    "chats and books": ((0.57, 60, 120), (0.3, 300, 250), (0.1, 1200, 400), (0.03, 60_000, 400)),
    "mixed": ((0.35, 60, 120), (0.3, 300, 250), (0.15, 1200, 400), (0.12, 2000, 150), (0.08, 3500, 300)),
}
# name -> seconds for the prompt's thousand tokens and beside, seconds for each output token
OBJECTIVES = {"120 ms a token": (1.0, 0.120), "40 ms a token": (1.0, 0.040)}


def inventory(fleet: Fleet, accelerators: tuple[str, ...]) -> Inventory:
    """The cards of a fleet; a replica takes a card."""
    cards, kinds = {}, {}
    for name in accelerators:
        profile = find(fleet.model, name)
        assert profile.weight_bytes is not None
        assert profile.kv_bytes_per_token is not None
        free = USABLE * MEMORY_GB[name] * 1e9 - profile.weight_bytes
        limits = Limits(profile.largest_batch or 64, kv_tokens=int(free / profile.kv_bytes_per_token))
        cards[name] = CardType(name, MOST_CARDS, 1, fleet.prices[name])
        kinds[fleet.model, name] = Kind(
            fleet.model, name, profile.step_law, limits, 60.0, fleet.prices[name], profile.provenance.source
        )
    return Inventory(cards, kinds)


def calls(fleet: Fleet, sizes: str, objective: str, rate: float) -> list[CallClass]:
    """One class for each size."""
    first_s, token_s = OBJECTIVES[objective]
    return [
        CallClass(
            f"{sizes}-{prompt}", "call", fleet.model, share * rate, prompt, output,
            first_s * (1 + prompt / 1000) + token_s * output, answers=False,
        )
        for share, prompt, output in SIZES[sizes]
    ]  # fmt: skip


def spread(fleet: Fleet, sizes: str, objective: str) -> tuple[float, str]:
    """The largest R of two card types, and which; infinite where one cannot serve what the other can."""
    classes = calls(fleet, sizes, objective, 1.0)
    kinds = inventory(fleet, tuple(fleet.prices)).kinds
    most, which = 1.0, ""
    for one, other in combinations(fleet.prices, 2):
        borne = [[bearing(kinds[fleet.model, name], each) for name in (one, other)] for each in classes]
        ratios = [a.rate / b.rate if a.batch and b.batch else inf if a.batch else 0.0 for a, b in borne]
        found = max(ratios) / min(ratios) if min(ratios) > 0 else inf
        if found > most:
            most, which = found, f"{one}, {other}"
    return most, which


def limit(most: float) -> float:
    """The largest saving with that R."""
    return 1.0 if most == inf else 1 - 2 / (1 + sqrt(most))


def cheapest(fleet: Fleet, accelerators: tuple[str, ...], classes: list[CallClass]) -> tuple[float, float, str]:
    """Price of an hour, expected attainment and cards of the cheapest fleet; infinite if it cannot serve."""
    sizing = size(inventory(fleet, accelerators), classes, Provisioning(quantile=QUANTILE))
    attained = sizing.attainment[fleet.model]
    if sizing.mix.unserved or sizing.mix.best_effort or attained < QUANTILE:
        return inf, attained, ""
    cards = ", ".join(f"{n} {accelerator}" for (_, accelerator), n in sizing.mix.replicas.items() if n)
    return sizing.mix.cost_per_hour, attained, cards


def compared(fleet: Fleet, sizes: str, objective: str, rate: float) -> dict[str, Any] | None:
    """The mix beside each single type; None where nothing serves the calls."""
    classes = calls(fleet, sizes, objective, rate)
    singles = {name: cheapest(fleet, (name,), classes) for name in fleet.prices}
    best = min(singles, key=lambda name: singles[name][0])
    price, attained, cards = cheapest(fleet, tuple(fleet.prices), classes)
    if price == inf:
        return None
    return {
        "model": fleet.model, "cards": list(fleet.prices), "sizes": sizes, "objective": objective, "rate": rate,
        "single": singles[best][2], "single_price": singles[best][0], "single_attained": singles[best][1],
        "mix": cards, "mix_price": price, "mix_attained": attained, "saved": 1 - price / singles[best][0],
        "saved_by_single": {name: 1 - price / found[0] for name, found in singles.items() if found[0] < inf},
    }  # fmt: skip


def frontier() -> list[dict[str, Any]]:
    """Savings of two card types against their ratio of prices, at a large load and at a small one."""
    rows: list[dict[str, Any]] = []
    for fleet, names in (
        (FLEETS[0], ("RTX-4090", "RTX-PRO-6000")),
        (FLEETS[1], ("L40S", "H100")),
        (FLEETS[2], ("A10", "A100")),
    ):
        for factor in FACTORS:
            dearer = fleet.prices[names[1]] * factor
            pair = replace(fleet, prices={names[0]: fleet.prices[names[0]], names[1]: dearer})
            saved = {}
            for objective, rate in product(OBJECTIVES, (4.0, 200.0)):
                row = compared(pair, "mixed", objective, rate)
                saved[f"{objective}, {rate:g}/s"] = row["saved"] if row is not None else None
            rows.append(
                {"cards": names, "ratio": dearer / fleet.prices[names[0]], "listed": factor == 1.0, "saved": saved}
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one rate and no ratios of prices; nothing is written")
    asked = parser.parse_args()
    cases = [
        case for case in product(FLEETS, SIZES, OBJECTIVES)
        if max(prompt + output for _, prompt, output in SIZES[case[1]]) <= CONTEXT[case[0].model]
    ]  # fmt: skip
    rows = []
    for (fleet, sizes, objective), rate in product(cases, RATES[3:4] if asked.quick else RATES):
        if (row := compared(fleet, sizes, objective, rate)) is not None:
            rows.append(row)
            print(row, flush=True)
    if asked.quick:
        return
    varied = [row for row in rows if row["sizes"] != "equal calls"]
    possible = [row for row in varied if row["single_price"] < inf]
    saved = sorted(row["saved"] for row in possible)
    any_type = sorted(one for row in possible for one in row["saved_by_single"].values())
    limits = [(*case, *spread(*case)) for case in cases if case[1] != "equal calls"]
    prices = frontier()
    heads = list(prices[0]["saved"])
    lines = [
        "# Mixed cards against the best single card type", "",
        f"Price of an hour at {QUANTILE:.0%} of the calls in time by projection. Speeds: the bundled catalog.",
        *(f"Prices of {fleet.model} on {', '.join(fleet.prices)}: {fleet.source}." for fleet in FLEETS), "",
        f"Where sizes vary ({len(possible)} cases): median saving {saved[len(saved) // 2]:.0%}, least {saved[0]:.0%}, "
        f"most {saved[-1]:.0%}; at least 25 % in {sum(s >= 0.25 for s in saved)} of them, dearer in "
        f"{sum(s < -1e-9 for s in saved)}. No single type serves all sizes in {len(varied) - len(possible)} more. "
        f"Calls of equal size: dearer in {sum(row['saved'] < -1e-9 for row in rows if row not in varied)} of "
        f"{len(rows) - len(varied)}. Against any one type that serves all sizes, as Melange reports it, the mix "
        f"saves {any_type[0]:.0%} to {any_type[-1]:.0%}, median {any_type[len(any_type) // 2]:.0%}.", "",
        "## What could be saved at most", "",
        "R: how many times better the sizes suit one type than the other, of the two types that differ most. At most: "
        "whatever the prices and the shares of the sizes, at a large load.", "",
        "| model | sizes | objective | types | R | saved at most |", "|---|---|---|---|---|---|",
        *(
            f"| {fleet.model} | {sizes} | {objective} | {which} | {most:.2f} | {limit(most):.0%} |"
            for fleet, sizes, objective, most, which in limits
        ), "",
        "## Savings of two types against their ratio of prices", "", "Sizes: mixed.", "",
        f"| types | ratio | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}",
        *(
            f"| {', '.join(row['cards'])} | {row['ratio']:.2f}{' (listed)' if row['listed'] else ''} | "
            + " | ".join("-" if row["saved"][head] is None else f"{row['saved'][head]:.0%}" for head in heads) + " |"
            for row in prices
        ), "",
        "## All cases", "",
        "| model | sizes | objective | calls/s | best single | price | mix | price | saved |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['model']} | {r['sizes']} | {r['objective']} | {r['rate']:g} | {r['single'] or 'none'} | "
            f"{r['single_price']:.2f} | {r['mix']} | {r['mix_price']:.2f} | {r['saved']:.0%} |"
            for r in rows
        ),
    ]  # fmt: skip
    data = {"environment": environment(packages=("scipy",)), "rows": rows, "frontier": prices}
    write("mixed_cards", data, "\n".join(lines))


if __name__ == "__main__":
    main()
