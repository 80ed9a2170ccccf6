"""What prefix affinity gains: runs of several turns, each of which begins with what was said before.

    python -m benchmarks.prefix_affinity [--table]

Four equal cards in virtual time. A run is five calls in a row; an engine that served the turn before has nine tenths of
the prompt in its cache and says so, as vLLM and llama.cpp do. `slack` learns that from finished calls and weighs it
against the load of that replica; without affinity it is shown no replica that served a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.environment import TABLE, asked_then, environment, kept, write
from benchmarks.support.within import within
from dask_fmware.policy.protocol import CallView, Choice, Policy, ReplicaView
from dask_fmware.policy.slack import Slack
from dask_fmware.simulation.replicas import Attempt
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.scenario import Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

CARDS = Path(__file__).parent / "scenarios" / "batching2.yaml"
CACHED = 0.9  # of a prompt, where the turn before was served
TURNS = 5


class Forgetful(Slack):
    """`Slack` without prefix affinity."""

    def choose(self, call: CallView, replicas: Sequence[ReplicaView], now: float) -> Choice:
        """As `Slack`, of a call that was served nowhere before."""
        return super().choose(replace(call, home=None, cached_tokens=0), replicas, now)


class Turns(World):
    """A simulation of engines that remember the turn before."""

    def __init__(self, scenario: Scenario, policy: Policy, rate: float, seed: int) -> None:
        super().__init__(scenario, policy, Workload(scenario, seed).runs(rate=rate), seed)
        self._served: dict[str, str] = {}  # run -> replica that served its last turn
        self.hits = 0

    def _cached(self, attempt: Attempt, prompt: int) -> int:
        run_id, replica_id = attempt.call_id.partition("/")[0], attempt.replica.replica.replica_id
        before = self._served.get(run_id)
        self._served[run_id] = replica_id
        if before != replica_id:
            return 0
        self.hits += 1
        return int(CACHED * prompt)


def scenario(prompt_tokens: int, duration_s: float) -> Scenario:
    """Return four cards and runs of several turns with prompts of about so many tokens."""
    base = load_scenario(CARDS)
    hosting = base.models["8b"].on["A100"].model_dump(exclude_defaults=True)
    turn = {
        "model": "8b",
        "prompt": {"lognormal": [prompt_tokens, 0.4], "most": 4 * prompt_tokens},
        "output": {"lognormal": [60, 0.4], "least": 8, "most": 300},
    }
    nodes: dict[str, Any] = {"turn1": turn}
    for number in range(2, TURNS):
        nodes[f"turn{number}"] = {**turn, "after": [f"turn{number - 1}"]}
    nodes["answer"] = {**turn, "after": [f"turn{TURNS - 1}"], "answers": True}
    return Scenario.model_validate(
        {
            "name": "turns",
            "cards": {"A100": {"count": 4}},
            "models": {"8b": {"on": {"A100": hosting}}},
            "workflows": {"agent": {"slo": {"on": "A100", "factor": 1.5, "plus_s": 0.15}, "nodes": nodes}},
            "arrivals": {"kind": "poisson", "duration_s": duration_s},
        }
    )


def of_seed(made: Scenario, policy: Policy, rate: float, seed: int) -> tuple[float, float, float]:
    """Goodput, mean TTFT and the share of calls that found their prompt in a cache."""
    world = Turns(made, policy, rate, seed)
    outcomes = world.play()
    goodput = sum(outcome.met for outcome in outcomes) / len(outcomes)
    ttft_s = sum(outcome.first_token_at - outcome.run.arrival for outcome in outcomes) / len(outcomes)
    return goodput, ttft_s, world.hits / world.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--duration", type=float, default=40.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 8.0, 11.0], help="of 1,500 tokens, runs/s")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    if asked.table:
        raw = kept("prefix_affinity")
        asked = asked_then(parser, raw["environment"]["command"])
    else:
        raw = {"environment": environment(seed=asked.first_seed), "rows": list(measured(asked))}
    text = table(raw, asked)
    print(text)
    write("prefix_affinity", raw, text)


def measured(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what came of each seed of a rate, without affinity and with it."""
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    for prompt_tokens in (1500, 5000):
        made = scenario(prompt_tokens, asked.duration)
        for rate in (rate * (1.0 if prompt_tokens == 1500 else 0.48) for rate in asked.rates):
            found = {
                policy.__name__: [of_seed(made, policy(), rate, seed) for seed in seeds]
                for policy in (Forgetful, Slack)
            }
            print(f"{prompt_tokens} tokens, {rate:g} runs/s", flush=True)
            yield {"prompt_tokens": prompt_tokens, "rate": rate, "cells": found}


def table(raw: dict[str, Any], asked: argparse.Namespace) -> str:
    """Markdown of what is kept."""
    lines = [
        "# Prefix affinity: runs of five turns on four cards, simulated",
        "",
        f"`{raw['environment']['command']}`; {asked.seeds} seeds from {asked.first_seed}, "
        f"{asked.duration:g} s of arrivals.",
        "",
        "| prompt tokens | runs/s | without: goodput, TTFT, found | with: goodput, TTFT, found | gained (95 %) |",
        "|---|---|---|---|---|",
    ]
    for row in raw["rows"]:
        found = row["cells"]
        shown = [
            "{:.3f}, {:.2f} s, {:.0%}".format(*[sum(values) / len(values) for values in zip(*cells, strict=True)])
            for cells in found.values()
        ]
        pairs = zip(found["Slack"], found["Forgetful"], strict=True)
        gained = interval([one[0] - other[0] for one, other in pairs])
        lines.append(
            f"| {row['prompt_tokens']} | {row['rate']:g} | {' | '.join(shown)} "
            f"| {gained.mean:+.3f}{within(gained.low, gained.high, '+.3f', asked.seeds)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
