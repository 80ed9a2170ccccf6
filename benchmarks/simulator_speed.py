"""How fast the simulator is: calls a second of CPU time at 64 replicas, and a million calls on 1,000 replicas.

python -m benchmarks.simulator_speed [--policies least_outstanding slack] [--calls 40000] [--million] [--quick]

CPU time of one process, drawing the runs and summing up included. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.support.environment import environment, write
from dask_fmware.simulate.scenario import PoissonArrivals, load_scenario
from dask_fmware.simulate.tally import Tally
from dask_fmware.simulate.workload import Workload
from dask_fmware.simulate.world import World

SCENARIO = Path(__file__).parent / "scenarios" / "batching64.yaml"
RATE = 200.0  # runs a second on 64 cards: busy, and every policy keeps up
CALLS_PER_RUN = 2.8


def play(policy: str, times: float, calls: int, seed: int = 0) -> dict[str, Any]:
    """Simulate `calls` calls on ``64 * times`` cards and return what it took."""
    scenario = load_scenario(SCENARIO)
    cards = {
        name: card.model_copy(update={"count": round(card.count * times)}) for name, card in scenario.cards.items()
    }
    rate = RATE * times
    arrivals = PoissonArrivals(kind="poisson", duration_s=calls / CALLS_PER_RUN / rate)
    scenario = scenario.model_copy(update={"cards": cards, "arrivals": arrivals})
    wall, cpu = time.perf_counter(), time.process_time()
    tally = Tally(scenario)
    world = World(scenario, policy, Workload(scenario, seed).drawn(rate=rate), seed, ended=tally.add)
    world.play()
    measured = tally.measured(world.card_seconds)
    return {
        "policy": policy,
        "replicas": sum(card.count for card in cards.values()),
        "calls": world.calls,
        "runs": measured.runs,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "calls_per_cpu_s": world.calls / (time.process_time() - cpu),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "goodput": measured.goodput,
        "simulated_s": world.end_s,
    }


def apart(policy: str, times: float, calls: int) -> dict[str, Any]:
    """Play in a process of its own, so that memory is its own."""
    asked = f"play({policy!r}, {times}, {calls})"
    code = f"import json; from benchmarks.simulator_speed import play; print(json.dumps({asked}))"
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
            f"{row['calls_per_cpu_s']:,.0f} | {row['peak_mb']:.0f} MB | {row['goodput']:.3f} |"
        )
    print("\n".join(lines))
    if not asked.quick:
        write("simulator_speed", {"environment": environment(seed=0), "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
