"""What mixed cards save: the cheapest mix against the best single card type, at equal attainment.

    python -m benchmarks.mixed_cards

Speeds are the bundled catalog's, memory the cards', prices as listed by providers (sources in the table). Calls come
in classes of sizes, each with an objective for completion; a fleet has to serve 95 % of them in time by the projection
that the provisioner plans with. Nothing is played: the routing that sends each size to its card is not part of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

from benchmarks.support.environment import environment, write
from dask_fmware.profile.catalog import find
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning import CardType, Inventory, Kind
from dask_fmware.provisioning.capacity import CallClass
from dask_fmware.provisioning.sizing import size
from dask_fmware.spec.provisioning import Provisioning

QUANTILE = 0.95
RATES = (0.5, 2.0, 8.0, 32.0)
MOST_CARDS = 400
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
            f"{sizes}-{prompt}.call", fleet.model, share * rate, prompt, output,
            first_s * (1 + prompt / 1000) + token_s * output, answers=False,
        )
        for share, prompt, output in SIZES[sizes]
    ]  # fmt: skip


def cheapest(fleet: Fleet, accelerators: tuple[str, ...], classes: list[CallClass]) -> tuple[float, float, str]:
    """Price of an hour, expected attainment and cards of the cheapest fleet; infinite if it cannot serve."""
    sizing = size(inventory(fleet, accelerators), classes, Provisioning(quantile=QUANTILE))
    attained = sizing.attainment[fleet.model]
    if sizing.mix.unserved or sizing.mix.best_effort or attained < QUANTILE:
        return inf, attained, ""
    cards = ", ".join(f"{n} {accelerator}" for (_, accelerator), n in sizing.mix.replicas.items() if n)
    return sizing.mix.cost_per_hour, attained, cards


def main() -> None:
    rows: list[dict[str, Any]] = []
    for fleet, sizes, objective, rate in product(FLEETS, SIZES, OBJECTIVES, RATES):
        if max(prompt + output for _, prompt, output in SIZES[sizes]) > CONTEXT[fleet.model]:
            continue
        classes = calls(fleet, sizes, objective, rate)
        singles = {name: cheapest(fleet, (name,), classes) for name in fleet.prices}
        best = min(singles, key=lambda name: singles[name][0])
        price, attained, cards = cheapest(fleet, tuple(fleet.prices), classes)
        if price == singles[best][0] == inf:
            continue
        rows.append({
            "model": fleet.model, "sizes": sizes, "objective": objective, "rate": rate,
            "single": singles[best][2], "single_price": singles[best][0], "single_attained": singles[best][1],
            "mix": cards, "mix_price": price, "mix_attained": attained, "saved": 1 - price / singles[best][0],
        })  # fmt: skip
        print(rows[-1], flush=True)
    varied = [row for row in rows if row["sizes"] != "equal calls"]
    saved = sorted(row["saved"] for row in varied)
    lines = [
        "# Mixed cards against the best single card type",
        "",
        f"Price of an hour at {QUANTILE:.0%} of the calls in time by projection. Speeds: the bundled catalog.",
        *(f"Prices of {fleet.model}'s cards: {fleet.source}." for fleet in FLEETS),
        "",
        f"Where sizes vary ({len(varied)} cases): median saving {saved[len(saved) // 2]:.0%}, least {saved[0]:.0%}, "
        f"most {saved[-1]:.0%}; at least 25 % in {sum(s >= 0.25 for s in saved)} of them, dearer in "
        f"{sum(s < -1e-9 for s in saved)}. Calls of equal size: dearer in "
        f"{sum(row['saved'] < -1e-9 for row in rows if row not in varied)} of {len(rows) - len(varied)}.",
        "",
        "| model | sizes | objective | calls/s | best single | price | mix | price | saved |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['model']} | {r['sizes']} | {r['objective']} | {r['rate']:g} | {r['single']} | "
            f"{r['single_price']:.2f} | {r['mix']} | {r['mix_price']:.2f} | {r['saved']:.0%} |"
            for r in rows
        ),
    ]
    write("mixed_cards", {"environment": environment(packages=("scipy",)), "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
