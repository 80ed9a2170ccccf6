"""What planning costs: a fleet of 8 models on 6 card types with 500 cards, and a look at 1,000 replicas.

    python -m benchmarks.provisioning_cost [--quick]

CPU time, best of five; the bars are 2 s and 50 ms.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from benchmarks.support.environment import environment, write
from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning import (
    CardType,
    Inventory,
    Kind,
    ModelLoad,
    NodeDemand,
    Observation,
    Planner,
    ReplicaNow,
    WorkflowDemand,
)
from dask_fmware.provisioning.ahead import offers
from dask_fmware.provisioning.demand import call_classes
from dask_fmware.spec.provisioning import Provisioning

SPEEDS = {"T4": 0.4, "L4": 0.6, "L40S": 1.0, "A100": 1.7, "H100": 3.0, "H200": 3.6}
PRICES = {"T4": 0.35, "L4": 0.7, "L40S": 1.0, "A100": 1.9, "H100": 3.5, "H200": 4.3}
SIZES = {"m0": 1, "m1": 1, "m2": 1.5, "m3": 2, "m4": 2, "m5": 3, "m6": 5, "m7": 8}


def fleet(cards: int) -> Inventory:
    types = {name: CardType(name, cards // 6 + (i < cards % 6), 1, PRICES[name]) for i, name in enumerate(SPEEDS)}
    kinds = {}
    for model, size in SIZES.items():
        for name, speed in SPEEDS.items():
            law = StepLaw.plain(0.012, 5e-5, 3e-4, 1e-7).scaled(size / speed, size / speed)
            kinds[model, name] = Kind(model, name, law, Limits(64, kv_tokens=200_000), 30.0, PRICES[name])
    return Inventory(types, kinds)


def flows(rate: float) -> tuple[WorkflowDemand, ...]:
    """Four workflows that call two models each, in three sizes of prompts."""
    made = []
    for i in range(4):
        first, last = f"m{i}", f"m{7 - i}"
        nodes = (
            NodeDemand("ask", first, prompt_tokens=100 * (i + 1), output_tokens=20),
            NodeDemand("read", first, ("ask",), calls=3, prompt_tokens=900, output_tokens=60),
            NodeDemand("answer", last, ("read",), prompt_tokens=1500, output_tokens=250, answers=True),
        )
        made.append(WorkflowDemand(f"w{i}", nodes, rate * (i + 1), 6.0 + 4.0 * i))
    return tuple(made)


def cpu_s(do: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        do()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, and nothing is written")
    asked = parser.parse_args()
    inventory, options = fleet(500), Provisioning()
    classes = call_classes(flows(12.0), inventory)
    found, _ = offers(inventory, classes, options)
    plan_s = cpu_s(lambda: offers(inventory, classes, options), 1 if asked.quick else 5)

    big = fleet(1400)
    replicas = tuple(
        ReplicaNow(f"{model}-{card}-{n}", model, card, "ready", 0.0, running=n % 5, idle_since=None)
        for number, (model, card) in enumerate(list(big.kinds) * 21)
        for n in [number]
    )[:1000]
    draw = random.Random(1)
    planner, ticks = Planner(big, options), []
    for second in range(40):
        load = tuple(WorkflowDemand(f.name, f.nodes, f.rate * draw.uniform(0.9, 1.1), f.slo_s) for f in flows(24.0))
        seen = Observation(load, {model: ModelLoad(3, 20, 500, 5) for model in SIZES}, replicas)
        start = time.process_time()
        planner.plan(seen, float(second))
        ticks.append(time.process_time() - start)
    ticks.sort()
    result = {
        "environment": environment(),
        "fleet": {
            "models": 8, "accelerators": 6, "cards": 500, "cpu_s": plan_s,
            "offers": [offer.to_wire() for offer in found[:3]],
        },
        "tick": {
            "replicas": 1000, "ticks": len(ticks), "median_cpu_s": ticks[20], "p90_cpu_s": ticks[36],
            "largest_cpu_s": ticks[-1],
        },
    }  # fmt: skip
    lines = [
        "# What planning costs",
        "",
        "| what | CPU time | bar |",
        "|---|---|---|",
        f"| a fleet of 8 models, 6 card types, 500 cards, with {len(found)} offers | {plan_s:.2f} s | 2 s |",
        f"| a look at 1,000 replicas, median of {len(ticks)} | {1e3 * ticks[20]:.1f} ms | 50 ms |",
        f"| the same, 90 % | {1e3 * ticks[36]:.1f} ms | 50 ms |",
        f"| the same, the longest (a new mix is worked out) | {1e3 * ticks[-1]:.1f} ms | 50 ms |",
    ]
    print("\n".join(lines))
    if not asked.quick:
        write("provisioning_cost", result, "\n".join(lines))


if __name__ == "__main__":
    main()
