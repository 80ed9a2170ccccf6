"""Real traffic: policies on recorded request traces, no constant changed.

python -m benchmarks.slack_traces --data TRACES [--scales 1 0.25 ...] [--seeds 5] [--duration 120]

TRACES holds gzip CSVs with ``arrival_s,prompt_tokens,output_tokens``: azure2023_conv and azure2023_code (Microsoft
Azure's public LLM inference traces of 2023, CC-BY-4.0) and agent_lmcache_minisweagent (calls of coding agents of
LMCache/lmcache-agent-trace, Apache-2.0).
Every seed plays another stretch. A time scale of 0.25 plays four times as fast.

conv and code: each row is a run of one call. agents: each run is a loop as long as the sessions of the trace are, with
their prompts and outputs; sessions arrive by a Poisson process, since the trace has no common clock.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.support.environment import environment, write
from benchmarks.support.within import within
from dask_fmware.simulation.report import Cell, paired
from dask_fmware.simulation.run import play, saturation
from dask_fmware.simulation.scenario import Scenario, load_scenario

POLICIES = ("slack", "greedy", "target", "least_outstanding", "power_of_two", "round_robin")
CARDS = Path(__file__).parent / "scenarios" / "batching6.yaml"
SLO = {"on": "A10", "factor": 1.5, "plus_s": 0.15}


def single(path: Path, scale: float, duration_s: float, **fleet: Any) -> Scenario:
    """Each row of a trace is a run of one call."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    prompts = sorted(int(float(row["prompt_tokens"])) for row in rows)
    outputs = sorted(int(float(row["output_tokens"])) for row in rows)
    node = {"model": "8b", "answers": True, "prompt": spread(prompts), "output": spread(outputs)}
    return Scenario.model_validate(
        {
            **fleet,
            "name": path.name.partition(".")[0],
            "workflows": {"one": {"slo": SLO, "nodes": {"answer": node}}},
            "arrivals": {"kind": "trace", "path": str(path), "time_scale": scale, "duration_s": duration_s},
        }
    )


def spread(ordered: list[int]) -> dict[str, list[float]]:
    """A hundred quantiles: what the runtime has learnt of the node before."""
    return {"values": [float(ordered[min(int((i + 0.5) / 100 * len(ordered)), len(ordered) - 1)]) for i in range(100)]}


def agents(path: Path, duration_s: float, **fleet: Any) -> Scenario:
    """Each session of a trace is a loop of calls, the last of which answers."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    key = next(name for name in ("session_id", "session", "trace_id") if name in rows[0])
    steps = Counter(row[key] for row in rows)
    prompts = sorted(int(float(row["prompt_tokens"])) for row in rows)
    outputs = sorted(max(int(float(row["output_tokens"])), 1) for row in rows)
    call = {"model": "8b", "prompt": spread(prompts), "output": spread(outputs)}
    rounds = {"values": [float(max(count - 1, 1)) for count in steps.values()]}
    nodes = {"step": {**call, "rounds": rounds}, "answer": {**call, "after": ["step"], "answers": True}}
    return Scenario.model_validate(
        {
            **fleet,
            "name": path.name.partition(".")[0],
            "workflows": {"agent": {"slo": SLO, "nodes": nodes}},
            "arrivals": {"kind": "poisson", "duration_s": duration_s},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--loads", type=float, nargs="+", default=[0.7, 1.0, 1.5], help="of agents, of saturation")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--duration", type=float, default=120.0)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--only", nargs="+", default=["conv", "code", "agents"])
    asked = parser.parse_args()
    told = environment(seed=asked.first_seed)
    told["command"] = told["command"].replace(f"--data {asked.data.name}", "--data TRACES")
    cards = load_scenario(CARDS)
    fleet: dict[str, Any] = {
        "cards": {name: card.model_dump(exclude_defaults=True) for name, card in cards.cards.items()},
        "models": {name: model.model_dump(exclude_defaults=True) for name, model in cards.models.items()},
    }
    plays: list[tuple[str, float, Scenario, float | None]] = []
    for kind in ("conv", "code"):
        if kind in asked.only:
            path = asked.data / f"azure2023_{kind}.csv.gz"
            plays += [(kind, scale, single(path, scale, asked.duration, **fleet), None) for scale in asked.scales]
    if "agents" in asked.only:
        made = agents(asked.data / "agent_lmcache_minisweagent.csv.gz", asked.duration, **fleet)
        full = saturation(made)
        plays += [("agents", load, made, load * full) for load in asked.loads]
    lines = [
        "# Real traffic on six cards",
        "",
        f"`{told['command']}`; seeds from {asked.first_seed}, {asked.duration:g} s of arrivals each, full",
        "drain counted; no policy constant changed. conv, code: time scale of the trace; agents: share of saturation.",
        "",
        "| traffic | scale | policy | goodput | slack above it, 95 % | 95 % within | latest run | runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for kind, scale, scenario, rate in plays:
        first: Cell | None = None
        for policy in asked.policies:
            seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
            cell = Cell(policy, scale, tuple(play(scenario, policy, seed, rate) for seed in seeds))
            first = first or cell
            above = paired(first, cell)
            row = {"traffic": kind, **cell.record(), "above": above.mean, "low": above.low, "high": above.high}
            rows.append(row)
            shown = "" if cell is first else f"{above.mean:+.3f}{within(above.low, above.high, '+.3f', seeds)}"
            lines.append(
                f"| {kind} | {scale:g} | {policy} | {row['goodput']:.3f} | {shown} | {row['scale_95']:.1f} SLO | "
                f"{row['latest_s']:.0f} s | {row['runs']:.0f} |"
            )
            print(lines[-1], flush=True)
            write("slack_traces", {"environment": told, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
