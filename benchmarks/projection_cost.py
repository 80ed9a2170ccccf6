"""What a projection costs, for a candidate on a replica with 64 running sequences.

    python benchmarks/projection_cost.py --seed 0

CPU time, best of five rounds. Prints a table; `--out FILE` writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.projection import Projection
from dask_fmware.profile.replica import Limits, ReplicaLoad, SequenceState

PLAIN = StepLaw.plain(0.012, 6e-5, 4e-5, 1.5e-8, 1e-9)
BENT = StepLaw(
    0.012,
    Curve((4e-5, 2e-5, 6e-5), (8.0, 64.0)),
    Curve((3e-8, 2e-8, 1.5e-8, 1.4e-8, 1.6e-8, 1.2e-8, 1.3e-8), tuple(2.0**k for k in range(10, 16))),
    0.001,
    Curve((1e-5, 5e-5, 6e-5), (128.0, 1024.0)),
    Curve(),
    1e-9,
)


def cpu_us(call: Callable[[], object], times: int) -> float:
    """CPU microseconds of one call: the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time_ns()
        for _ in range(times):
            call()
        best = min(best, (time.process_time_ns() - began) / times / 1000)
    return best


def replica(rng: np.random.Generator, running: int, waiting: int) -> ReplicaLoad:
    def sequence(runs: bool) -> SequenceState:
        prompt, output = int(rng.integers(50, 2000)), int(rng.integers(20, 400))
        return SequenceState(prompt, output, prompt if runs else 0, int(rng.integers(1, output)) if runs else 0)

    return ReplicaLoad(tuple(sequence(True) for _ in range(running)), tuple(sequence(False) for _ in range(waiting)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    candidate = SequenceState(int(rng.integers(50, 2000)), int(rng.integers(20, 400)))
    rows = []
    for law_name, law in (("straight", PLAIN), ("curves", BENT)):
        for running, waiting in ((64, 0), (64, 16)):
            load, limits = replica(rng, running, waiting), Limits(slots=running + (0 if waiting else 1))
            projection = Projection(load, limits, law)
            rows.append(
                {
                    "law": law_name,
                    "running": running,
                    "waiting": waiting,
                    "project_us": cpu_us(lambda: Projection(load, limits, law), 50),  # noqa: B023
                    "candidate_us": cpu_us(lambda: projection.estimate(candidate), 2000),  # noqa: B023
                    "ttft_us": cpu_us(lambda: projection.ttft_s(candidate), 2000),  # noqa: B023
                }
            )
    report = {
        "command": f"python benchmarks/projection_cost.py --seed {options.seed}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "rows": rows,
    }
    print("law       running waiting | project once | one candidate | its TTFT   (us CPU)")
    for row in rows:
        print(
            f"{row['law']:9} {row['running']:7} {row['waiting']:7} | {row['project_us']:12.1f} | "
            f"{row['candidate_us']:13.1f} | {row['ttft_us']:8.1f}"
        )
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
