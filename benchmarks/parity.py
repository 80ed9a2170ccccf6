"""Parity: a real `LocalModelCluster` with emulated engines, and the simulator on its recorded runs.

python -m benchmarks.parity [--runs 150] [--rates 4 9] [--policies slack greedy ...] [--quick]

Every process, stream and Dask task is real but the cards. What happened is recorded; the recorded runs (arrivals,
lengths, branches, pauses of plain code) are then played in virtual time under the same policy, and decisions and
goodput are compared. The log is also replayed event by event, which must give the same decisions.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distributed import Client

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from dask_fmware.simulation.agreement import Agreement, agreement
from dask_fmware.simulation.recorded import read_recorded
from dask_fmware.simulation.replay import replay

FAST = {"w0": 0.012, "w1": 1e-4, "w2": 2e-4, "w3": 0.0}
SLOW = {name: 2.2 * value for name, value in FAST.items()}
LENGTHS = [8, 12, 16, 24, 32]

small, large = fm.Model("small"), fm.Model("large")


@fm.workflow(slo=fm.SLO(ttft_s=0.4))  # about 0.25 s on idle fast cards: some runs miss it
def chain(question):  # type: ignore[no-untyped-def]
    first = small("Rewrite {question}", question=question, max_tokens=16, name="rewrite")
    return large("Answer {question} with {first}", question=question, first=first, max_tokens=32, name="answer")


def deployment(policy: str, log: Path) -> dict[str, Any]:
    """Two models on a fast and a slow card, one replica each."""

    def on(law: dict[str, float]) -> dict[str, Any]:
        latency = {"first_token_s": law["w0"], "prompt_token_s": law["w1"], "output_token_s": law["w0"] + law["w2"]}
        return {"replicas": 1, "slots": 4, "latency": latency, "arguments": {"law": law}}

    arguments = {"output_tokens": LENGTHS, "stream_interval_s": 0.2, "prefix_cache_tokens": 0}
    model = {"engine": "emulated", "arguments": arguments, "on": {"fast": on(FAST), "slow": on(SLOW)}}
    return {
        "accelerators": {"fast": {"cards": 2}, "slow": {"cards": 2}},
        "models": {"small": model, "large": model},
        "router": {"policy": policy, "record": str(log)},
    }


def record(policy: str, runs: int, rate: float, log: Path, seed: int = 0, **options: Any) -> None:
    """Let a real cluster serve runs that come by a Poisson process."""
    draws = random.Random(seed)
    with (
        fm.LocalModelCluster(deployment(policy, log), dashboard_address=None, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        fm.wait_ready(client)
        futures, due = [], time.perf_counter() + 0.5
        for number in range(runs):
            due += draws.expovariate(rate)
            time.sleep(max(due - time.perf_counter(), 0.0))
            futures.append(client.compute(chain(question=f"{number} " * draws.randint(2, 40))))
        client.gather(futures)


def compare(policy: str, runs: int, rate: float, seed: int = 0) -> tuple[Agreement, int]:
    """Record, replay and simulate."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "run.jsonl"
        record(policy, runs, rate, log, seed)
        again = replay(log)
        if again.difference is not None:
            raise SystemExit(f"replaying {policy} gave another decision: {again.difference}")
        return agreement(read_recorded(log)), again.decisions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["slack", "greedy", "least_outstanding", "power_of_two"])
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=[4.0, 9.0])
    parser.add_argument("--quick", action="store_true", help="few runs, and nothing is written")
    asked = parser.parse_args()
    runs = 40 if asked.quick else asked.runs
    lines = [
        "# A real cluster and the simulator",
        "",
        f"`{environment()['command']}`; emulated engines in real processes, {runs} runs of two calls each.",
        "Replayed event by event, every log gave the same decisions. Played in virtual time:",
        "",
        "| policy | runs/s | calls | same replica | pairs in another order | apart, 99 % | goodput real | simulated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for policy in asked.policies:
        for rate in asked.rates:
            found, decisions = compare(policy, runs, rate)
            rows.append({"policy": policy, "rate": rate, "decisions": decisions, **asdict(found)})
            lines.append(
                f"| {policy} | {rate:g} | {found.calls} | {found.same_replica:.1%} | {found.swapped:.3%} | "
                f"{1e3 * found.swapped_p99_s:.0f} ms | {found.goodput_recorded:.3f} | {found.goodput_simulated:.3f} |"
            )
            print(lines[-1], flush=True)
            if not asked.quick:
                write("parity", {"environment": environment(seed=0), "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
