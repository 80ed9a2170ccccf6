"""How fast the simulator is: calls a second of CPU time at 64 replicas, and a million calls on 1,000 replicas.

python -m benchmarks.simulator_speed [--policies least_outstanding slack] [--calls 40000] [--million] [--quick]

CPU time of one process, drawing the runs and summing up included. Each measurement is a process of its own. Two rows
say what could be had at best: the same simulation with a machine that costs nothing, because it repeats what another
one said of the same events, and as many entries of an agenda that do nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.support.environment import environment, write
from dask_fmware.runtime import Action, Event
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.scenario import PoissonArrivals, Scenario, load_scenario
from dask_fmware.simulation.tally import Tally
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SCENARIO = Path(__file__).parent / "scenarios" / "batching64.yaml"
RATE = 200.0  # runs a second on 64 cards: busy, and every policy keeps up
CALLS_PER_RUN = 2.8


def cluster(times: float, calls: int) -> tuple[Scenario, float]:
    """``64 * times`` cards with arrivals of so many calls, and the runs a second."""
    scenario = load_scenario(SCENARIO)
    cards = {
        name: card.model_copy(update={"count": round(card.count * times)}) for name, card in scenario.cards.items()
    }
    rate = RATE * times
    arrivals = PoissonArrivals(kind="poisson", duration_s=calls / CALLS_PER_RUN / rate)
    return scenario.model_copy(update={"cards": cards, "arrivals": arrivals}), rate


def play(policy: str, times: float, calls: int, seed: int = 0) -> dict[str, Any]:
    """Simulate `calls` calls on ``64 * times`` cards and return what it took."""
    scenario, rate = cluster(times, calls)
    wall, cpu = time.perf_counter(), time.process_time()
    tally = Tally(scenario)
    world = World(scenario, policy, Workload(scenario, seed).drawn(rate=rate), seed, ended=tally.add)
    world.play()
    measured = tally.measured(world.card_seconds)
    return {
        "policy": policy,
        "replicas": sum(card.count for card in scenario.cards.values()),
        "calls": world.calls,
        "runs": measured.runs,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "calls_per_cpu_s": world.calls / (time.process_time() - cpu),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "goodput": measured.goodput,
        "simulated_s": world.end_s,
    }


class Recalled:
    """Stands for a machine: it repeats what one said of the same events, and when it wanted to be woken."""

    def __init__(self, said: list[tuple[list[Action], float | None]]) -> None:
        self._said = iter(said)
        self.wake_at: float | None = None
        self.runs = SimpleNamespace(calls={})

    def handle(self, event: Event, now: float) -> list[Action]:
        """Repeat."""
        actions, self.wake_at = next(self._said)
        return actions


def without_machine(policy: str, times: float, calls: int, seed: int = 0) -> dict[str, Any]:
    """Play the same with a machine that costs nothing: arrivals, runs and engines alone."""
    scenario, rate = cluster(times, calls)
    said: list[tuple[list[Action], float | None]] = []
    tally = Tally(scenario)

    def world(watch: Callable[[Event, float, list[Action]], None] | None = None) -> World:
        return World(scenario, policy, Workload(scenario, seed).drawn(rate=rate), seed, watch, ended=tally.add)

    made: list[World] = []  # nothing while it is made and hears of its replicas, for which the second has a machine too

    def remember(event: Event, now: float, actions: list[Action]) -> None:
        said.extend((actions, one.machine.wake_at) for one in made)

    first = world(remember)
    made.append(first)
    first.play()
    began = time.process_time()
    second = world()
    second.machine = second._dispatcher = Recalled(said)  # type: ignore[assignment]
    second.play()
    spent_s = time.process_time() - began
    assert (second.calls, second.end_s) == (first.calls, first.end_s)
    return {
        "policy": f"{policy}, a machine that costs nothing",
        "replicas": sum(card.count for card in scenario.cards.values()),
        "calls": second.calls,
        "cpu_s": spent_s,
        "calls_per_cpu_s": second.calls / spent_s,
        "events": len(said),
        "noted": second._agenda.noted,
    }


def empty_loop(calls: int, noted: int) -> dict[str, Any]:
    """Play an agenda with so many entries that do nothing."""
    agenda, began = Agenda(), time.process_time()

    def nothing(left: int) -> None:
        if left:
            agenda.at(agenda.now + 1.0, nothing, left - 1)

    for _ in range(256):  # as many as are noted at a time, about
        agenda.at(0.0, nothing, noted // 256)
    agenda.play(float("inf"))
    spent_s = time.process_time() - began
    row = {"policy": "an empty loop", "replicas": 64, "calls": calls, "cpu_s": spent_s}
    return {**row, "calls_per_cpu_s": calls / spent_s, "noted": noted}


def apart(policy: str, times: float, calls: int, what: str = "play") -> dict[str, Any]:
    """Play in a process of its own, so that memory is its own."""
    asked = f"{what}({policy!r}, {times}, {calls})"
    code = f"import json; from benchmarks.simulator_speed import {what}; print(json.dumps({asked}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(told.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["least_outstanding", "greedy", "slack"])
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3, help="the quickest counts: others only add noise")
    parser.add_argument("--million", action="store_true", help="also a million calls on 1,000 replicas")
    parser.add_argument("--quick", action="store_true", help="few calls, and nothing is written")
    asked = parser.parse_args()
    calls, rounds = (8_000, 1) if asked.quick else (asked.calls, asked.rounds)
    rows = [
        min((apart(policy, 1.0, calls) for _ in range(rounds)), key=lambda row: row["cpu_s"])
        for policy in asked.policies
    ]
    best = min(
        (apart("slack", 1.0, calls, "without_machine") for _ in range(rounds)), key=lambda row: float(row["cpu_s"])
    )
    rows += [best, empty_loop(best["calls"], best["noted"])]
    if asked.million:
        rows += [apart(policy, 1000 / 64, 1_000_000) for policy in asked.policies]
    lines = [
        "# How fast the simulator is",
        "",
        f"`{environment()['command']}`; CPU time of one process, drawing and summing up included.",
        "",
        "| policy | replicas | calls | CPU | calls a second of CPU | peak memory | goodput |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['policy']} | {row['replicas']} | {row['calls']:,} | {row['cpu_s']:.1f} s | "
            f"{row['calls_per_cpu_s']:,.0f} | "
            + (f"{row['peak_mb']:.0f} MB | {row['goodput']:.3f} |" if "goodput" in row else "- | - |")
        )
    print("\n".join(lines))
    if not asked.quick:
        write("simulator_speed", {"environment": environment(seed=0), "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
