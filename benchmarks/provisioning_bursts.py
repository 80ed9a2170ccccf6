"""The provisioner on bursts, steps and constant loads, in virtual time: goodput, cards and changes of plan.

    python -m benchmarks.provisioning_bursts [--seeds 2] [--first-seed 1] [--only "step"]

Chats of Llama-3.1-8B on L40S with long or short answers, a load time of 5 s, 120 cards to choose from, 95 % asked for.
The default seeds are tuning seeds; nothing is written.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from statistics import fmean

from rich.progress import track

from benchmarks.support.scaling import POLICY
from dask_fmware.simulation.arrivals import Arrival
from dask_fmware.simulation.provisioned import ProvisioningController
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from dask_fmware.spec.provisioning import Bounds, Provisioning

Times = Callable[[random.Random], Iterator[float]]
LONG, SHORT = 3000, 300  # median tokens of an answer
LOAD_S, MOST = 5.0, 120
ONE = Bounds(min_replicas=1)


def bursts(count: int, within_s: float, every_s: float, length_s: float) -> Times:
    """So many arrivals within a moment, again and again."""

    def times(draw: random.Random) -> Iterator[float]:
        at = 0.0
        while at < length_s - within_s:
            yield from (at + draw.uniform(0.0, within_s) for _ in range(count))
            at += every_s

    return times


def rates(*pieces: tuple[float, float]) -> Times:
    """Poisson arrivals: until when, and how many a second."""

    def times(draw: random.Random) -> Iterator[float]:
        begin = 0.0
        for until, rate in pieces:
            at = begin
            while (at := at + draw.expovariate(rate)) < until:
                yield at
            begin = until

    return times


# name: times, length in s, tokens of an answer, objective in s, cards to begin with, idle_s, replicas that are kept
LOADS: dict[str, tuple[Times, float, int, float, int, float, Bounds]] = {
    "20 within 2 s every 200 s, long": (bursts(20, 2, 200, 7200), 7200, LONG, 5.0, 1, 20.0, Bounds()),
    "60 within 2 s every 200 s, long, one kept": (bursts(60, 2, 200, 7200), 7200, LONG, 5.0, 1, 120.0, ONE),
    "20 within 2 s every 30 s, long": (bursts(20, 2, 30, 3600), 3600, LONG, 5.0, 1, 20.0, Bounds()),
    "60 within 2 s every 30 s, short": (bursts(60, 2, 30, 3600), 3600, SHORT, 5.0, 1, 120.0, Bounds()),
    "step from 2 to 8 a second and back, short": (
        rates((900, 2.0), (1800, 8.0), (3000, 2.0)), 3000, SHORT, 1.0, 1, 120.0, Bounds(),
    ),
    "step from 0.5 to 2 a second and back, long": (
        rates((900, 0.5), (1800, 2.0), (3000, 0.5)), 3000, LONG, 1.0, 2, 120.0, Bounds(),
    ),
    "2 a second, short": (rates((3600, 2.0)), 3600, SHORT, 1.0, 2, 120.0, Bounds()),
    "1 a second, long": (rates((3600, 1.0)), 3600, LONG, 1.0, 4, 120.0, Bounds()),
}  # fmt: skip


def play(name: str, seed: int) -> tuple[float, float, int]:
    """Goodput, cards on average and changes of plan."""
    times, length_s, output, ttft_s, start, idle_s, kept = LOADS[name]
    hosting = {"slots": 32, "kv_tokens": 200_000, "catalog": ["Llama-3.1-8B", "L40S"], "load_s": LOAD_S}
    answer = {
        "model": "llm",
        "answers": True,
        "prompt": {"lognormal": [1250, 0.6], "most": 6000},
        "output": {"lognormal": [output, 0.6], "most": 12000},
    }
    scenario = Scenario.model_validate(
        {
            "name": "bursts",
            "cards": {"L40S": {"count": start, "most": MOST, "price_per_hour": 1.0}},
            "models": {"llm": {"on": {"L40S": hosting}}},
            "workflows": {"chat": {"slo": {"ttft_s": ttft_s}, "nodes": {"answer": answer}}},
            "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
            "warm_start": True,
        }
    )
    workload = Workload(scenario, seed)
    arrivals = sorted(times(random.Random(f"shape {seed}")))
    runs = (workload.run("chat", f"r{number}", Arrival(at)) for number, at in enumerate(arrivals))
    options = Provisioning(load_s=LOAD_S, interval_s=1.0, idle_s=idle_s, default=kept)
    controller = ProvisioningController(scenario, options)
    met: list[bool] = []
    world = World(scenario, POLICY, runs, seed, controller=controller, ended=lambda one: met.append(one.met))
    world.play()
    return fmean(met), sum(world.card_seconds.values()) / length_s, sum(len(plan.steps) for plan in controller.plans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--only", default="", help="loads whose name has this")
    asked = parser.parse_args()
    print("| load | goodput | cards on average | changes |\n|---|---|---|---|")
    for name in track([name for name in LOADS if asked.only in name], description="loads"):
        found = [play(name, seed) for seed in range(asked.first_seed, asked.first_seed + asked.seeds)]
        goodput, cards, changes = (fmean(column) for column in zip(*found, strict=True))
        print(f"| {name} | {goodput:.3f} | {cards:.2f} | {changes:.0f} |")


if __name__ == "__main__":
    main()
