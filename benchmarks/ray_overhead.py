"""What an empty call costs: dask-fmware beside Ray Serve, by default and in its throughput-optimised mode.

    python -m benchmarks.ray_overhead --ray-env RAY_ENV [--rounds 3]

One system is up at a time and rounds alternate; reported are medians over rounds. Models answer at once with one
token, on two replicas that take 256 calls each (Ray's default of 5 would only make it wait). A chain is a workflow of
three nodes here, and a deployment that composes three calls by handles there. The control plane is every process but
the models', the caller's and those of workflow code (light worker here, composing deployment there). Memory counts
shared pages in parts (PSS).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import track

from benchmarks.support.environment import environment, write
from benchmarks.support.systems import RAY_DEFAULTS, ray_python

__all__ = ["SYSTEMS", "table"]

ROOT = Path(__file__).parent.parent
SYSTEMS = {
    "dask-fmware": ("benchmarks.support.dask_empty", {}),
    "Ray Serve": ("benchmarks.ray_serve.empty", {}),
    "Ray Serve, throughput-optimised": ("benchmarks.ray_serve.empty", {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}),
}


def run(name: str, python: str, *options: str) -> dict[str, Any]:
    """Measure one system once."""
    module, variables = SYSTEMS[name]
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "scheduler_plugins", "workers"))
    done = subprocess.run(
        [python if "ray" in module else sys.executable, "-m", module, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, **RAY_DEFAULTS, **variables},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
        start_new_session=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(raw: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over rounds, and ratios, as Markdown."""
    ours, default, optimised = raw
    lines = [
        f"| | {ours} | {default} | {optimised} | ours / default | ours / optimised |",
        "|---|---|---|---|---|---|",
    ]
    for figure, first in raw[ours][0].items():
        if isinstance(first, int | float):
            values = [median(one[figure] for one in rounds) for rounds in raw.values()]
            lines.append(
                f"| {figure} | " + " | ".join(f"{value:.4g}" for value in values)
                + f" | {values[0] / values[1]:.2f} | {values[0] / values[2]:.2f} |"
            )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray-env", metavar="FOLDER", help="virtual environment with Ray (or the variable RAY_ENV)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written")
    asked = parser.parse_args()
    python = ray_python(asked.ray_env)
    options = ("--repeats", "50", "--seconds", "0.5") if asked.quick else ()
    raw: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    rounds = 1 if asked.quick else asked.rounds
    for name in track([name for _ in range(rounds) for name in SYSTEMS], description="systems in turn"):
        raw[name].append(run(name, python, *options))
    made = table(raw)
    print(made)
    if not asked.quick:
        where = environment()
        note = (
            f"`{where['command']}`, {where['processor']}, {where['cores']} cores, Python {where['python']}, "
            f"distributed {where['versions']['distributed']}, Ray {raw['Ray Serve'][0]['ray']}."
        )
        write("ray_overhead", {"environment": where, "raw": raw}, f"{made}\n\n{note}")


if __name__ == "__main__":
    main()
