"""Bar 5 of routing: CPU time of a decision in the machine, and memory of a held call.

    python -m benchmarks.decision_cost [--policies slack greedy] [--rounds 5] [--quick]

One call is submitted, runs and ends on a machine whose replicas are two thirds busy, or whose slots are all taken while
others are held; CPU time, best of the rounds.
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc

from benchmarks.support.environment import environment, write
from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.policy import create_policy
from dask_fmware.runtime import (
    Assign,
    AttemptEnded,
    CallRunnable,
    Machine,
    ModelLimits,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunSubmitted,
)
from dask_fmware.spec.deployment import Latency

LATENCIES = {
    "fast": Latency(first_token_s=0.02, prompt_token_s=0.00005, output_token_s=0.01),
    "slow": Latency(first_token_s=0.05, prompt_token_s=0.0001, output_token_s=0.02),
}


def machine(policy: str, replicas: int) -> Machine:
    made = Machine(
        create_policy(policy, random.Random(0).random), models={"m": ModelLimits(32768, 4)}, max_held=1 << 30,
        keep_runs=0,
    )  # fmt: skip
    for number in range(replicas):
        accelerator = "fast" if number % 3 == 0 else "slow"
        made.handle(
            ReplicaReady(
                Replica(
                    f"r{number:05}", f"r{number:05}", "m", accelerator, f"card{number}", 8, 32768, 4, "emulated", "1",
                    LATENCIES[accelerator],
                )
            ),
            0.0,
        )  # fmt: skip
    return made


def plan(run_id: str) -> RunPlan:
    node = PlannedNode("answer", run_id, model="m", max_tokens=64, prompt_bytes=400, answers=True)
    return RunPlan(run_id, "w", (node,), run_id, Objective(ttft_s=1e6))


def cost(policy: str, replicas: int, held: int = 0, count: int = 2000) -> tuple[float, float, float]:
    """Microseconds of a call becoming runnable, of one ending, and of all events of a call."""
    made = machine(policy, replicas)
    now, ended, running = 0.0, 0, []
    fill = 8 * replicas if held else int(8 * replicas * 2 / 3)
    for number in range(fill + held):
        made.handle(RunSubmitted(plan(f"f{number}")), now)
        for action in made.handle(CallRunnable(f"f{number}"), now):
            if isinstance(action, Assign):
                running.append(action)
    block = max(2 * replicas, 32)
    spent = [0.0, 0.0, 0.0]  # deciding for a call, ending one (which serves the next), all events
    for first in range(0, count, block):
        names = [f"c{number}" for number in range(first, first + block)]
        now += 0.01
        began = time.process_time()
        for name in names:
            made.handle(RunSubmitted(plan(name)), now)
        middle = time.process_time()
        for name in names:
            found = made.handle(CallRunnable(name), now)
            running += [action for action in found if isinstance(action, Assign)]
        decided = time.process_time()
        done, ended = running[ended : ended + block], ended + block
        for one in done:
            found = made.handle(AttemptEnded(one.call_id, one.attempt, "finished", 100, 20), now)
            running += [action for action in found if isinstance(action, Assign)]
        served = time.process_time()
        for one in done:
            made.handle(RunEnded(one.call_id, "finished"), now)
            made.handle(RunDropped(one.call_id), now)
        spent = [
            spent[0] + decided - middle,
            spent[1] + served - decided,
            spent[2] + time.process_time() - began,
        ]
    blocks = -(-count // block) * block
    return spent[0] / blocks * 1e6, spent[1] / blocks * 1e6, spent[2] / blocks * 1e6


def held_bytes(policy: str, count: int = 20_000) -> float:
    made = machine(policy, 1)
    for number in range(100):
        made.handle(RunSubmitted(plan(f"f{number}")), 0.0)
        made.handle(CallRunnable(f"f{number}"), 0.0)
    tracemalloc.start()
    for number in range(count):
        made.handle(RunSubmitted(plan(f"h{number}")), 0.0)
        made.handle(CallRunnable(f"h{number}"), 0.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["slack", "greedy", "power_of_two"])
    parser.add_argument("--rounds", type=int, default=5, help="the quickest counts: others only add noise")
    parser.add_argument("--quick", action="store_true", help="one round, few calls held, and nothing is written")
    asked = parser.parse_args()
    rounds, most_held = (1, 1000) if asked.quick else (asked.rounds, 100_000)
    where = environment()
    lines = [
        "# What a decision costs",
        "",
        f"`{where['command']}`; CPU time, best of {rounds} rounds, replicas of 8 slots.",
        "",
        "| policy | replicas | held | a call comes | a call ends, the next is served | all events of a call |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    print("\n".join(lines), flush=True)
    for policy in asked.policies:
        for replicas, held in ((16, 0), (1000, 0), (16, 100), (16, most_held)):
            tried = [cost(policy, replicas, held) for _ in range(rounds)]
            best = [min(cell) for cell in zip(*tried, strict=True)]
            row = {"policy": policy, "replicas": replicas, "held": held}
            rows.append(row | {"runnable_us": best[0], "ended_us": best[1], "all_us": best[2]})
            shown = " | ".join(f"{one:.1f} us" for one in best)
            lines.append(f"| {policy} | {replicas:,} | {held:,} | {shown} |")
            print(lines[-1], flush=True)
    memory = held_bytes("slack", 2000 if asked.quick else 20_000)
    lines += ["", f"Memory of a held call: {memory:,.0f} bytes."]
    print("\n".join(lines[-2:]))
    if not asked.quick:
        write("decision_cost", {"environment": where, "rows": rows, "held_bytes": memory}, "\n".join(lines))


if __name__ == "__main__":
    main()
