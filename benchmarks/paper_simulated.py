"""The paper's experiment in the simulator: more loads, seeds and settings than real systems can be given time for.

    python -m benchmarks.paper_simulated [--seeds 30]
    python -m benchmarks.paper_simulated --table

`power_of_two` stands for the present Ray Serve (at most 5 ongoing requests), `power_of_two_100` for that of the
paper's time (100). Everything here is simulated; `benchmarks.paper` says how near that is to the real systems.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.progress import track

from benchmarks.support.environment import TABLE, asked_then, environment, kept, write
from benchmarks.support.trial import FAST, Cell, scenario_of
from benchmarks.support.within import within
from dask_fmware.simulation.report import crossing, interval
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.tally import Measured, measure
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

__all__ = ["SETTINGS", "Setting"]

POLICIES = ("power_of_two_100", "power_of_two", "least_outstanding", "greedy", "target", "slack")
WORKFLOWS = ("rag", "shopping")
FIRST_SEED = 1000
LIGHT = 8  # runs, about what Ray Serve carries
BATCH = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """One form of the experiment."""

    title: str
    counts: tuple[int, ...]
    lengths: Any = "deterministic"
    plus_s: float = 1.0
    batching: bool = False

    def scenario(self, workflow: Any, count: int) -> Scenario:
        """The scenario at a load."""
        made = scenario_of(Cell(workflow, count, 0, self.lengths, self.plus_s))
        if not self.batching:
            return made
        cards = {name: card.model_copy(update={"slots": None}) for name, card in made.cards.items()}
        models = {
            name: model.model_copy(
                update={"on": {card: h.model_copy(update={"slots": BATCH}) for card, h in model.on.items()}}
            )
            for name, model in made.models.items()
        }
        return made.model_copy(update={"cards": cards, "models": models})


EVERY = tuple(range(1, 31))
SOME = (5, 8, 10, 12, 15, 20, 30)
SETTINGS = (
    Setting("serial engines, deterministic lengths, SLO + 1 s", EVERY),
    Setting("serial engines, drawn lengths, SLO + 1 s", SOME, lengths="drawn"),
    Setting("serial engines, deterministic lengths, SLO + 0.5 s", SOME, plus_s=0.5),
    Setting("serial engines, deterministic lengths, SLO + 2 s", SOME, plus_s=2.0),
    Setting(
        "continuous batching, 8 slots, models share the card's speed, deterministic lengths, SLO + 1 s",
        (*SOME, 40, 60),
        batching=True,
    ),
)


def played(setting: Setting, workflow: str, policy: str, seeds: range) -> Iterator[list[Measured]]:
    """Yield, for each load, what came of each seed."""
    for count in setting.counts:
        scenario = setting.scenario(workflow, count)
        yield [
            measure(scenario, World(scenario, policy, Workload(scenario, seed).runs(), seed).play()) for seed in seeds
        ]


def rows(setting: Setting, seeds: range) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by workflow and policy."""
    made: dict[str, dict[str, dict[str, Any]]] = {}
    for workflow in WORKFLOWS:
        made[workflow] = {}
        for policy in POLICIES:
            found = list(played(setting, workflow, policy, seeds))
            means = [fmean(one.goodput for one in cell) for cell in found]
            by_seed = [fmean(cell[i].goodput for cell in found) for i in range(len(seeds))]
            made[workflow][policy] = {
                "goodput": means,
                "goodput_by_seed": by_seed,
                "largest_n": crossing(setting.counts, means),
                "ttft_mean_s": [fmean(one.ttft_mean_s for one in cell) for cell in found],
                "latency_mean_s": [fmean(one.latency_mean_s for one in cell) for cell in found],
                "fast_share": [fmean(one.share[FAST] for one in cell) for cell in found],
            }
    return made


def table(setting: Setting, found: dict[str, dict[str, dict[str, Any]]], full: dict[str, float]) -> list[str]:
    """Markdown of one setting."""
    lines = [
        f"## {setting.title}",
        "",
        "| workflow | policy | largest N at 70 % | goodput over N | against `power_of_two` / `_100` "
        "| mean latency, N <= 8 | below saturation | mean TTFT, N <= 8 | below saturation | fast card at N = 15 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for workflow, policies in found.items():
        for policy, one in policies.items():
            goodput = interval(one["goodput_by_seed"], 0.0, 1.0)
            against = [
                f"{goodput.mean / fmean(policies[base]['goodput_by_seed']) - 1:+.0%}"
                for base in ("power_of_two", "power_of_two_100")
            ]
            row = [
                workflow,
                policy,
                f"{one['largest_n']:.1f}",
                f"{goodput.mean:.3f}{within(goodput.low, goodput.high, '.3f', one['goodput_by_seed'])}",
                " / ".join(against),
            ]
            for metric in ("latency_mean_s", "ttft_mean_s"):
                for most in (LIGHT, full[workflow] if not setting.batching else max(setting.counts)):
                    mine, base = (
                        fmean(v for n, v in zip(setting.counts, policies[p][metric], strict=True) if n <= most)
                        for p in (policy, "power_of_two")
                    )
                    row.append(f"{mine:.2f} s, {mine / base - 1:+.0%}")
            row.append(f"{one['fast_share'][setting.counts.index(15)]:.2f}")
            lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def main() -> None:
    from benchmarks.support.curves import saturation

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="from 1000 up")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    raw: dict[str, Any]
    if asked.table:
        raw = kept("paper_simulated")
        asked = asked_then(parser, raw["environment"]["command"])
    else:
        seeds = range(FIRST_SEED, FIRST_SEED + asked.seeds)
        raw = {"environment": environment(seed=FIRST_SEED)}
        for setting in track(SETTINGS, description="settings"):
            raw[setting.title] = {"counts": setting.counts, **rows(setting, seeds)}
    full = {workflow: saturation(workflow) for workflow in WORKFLOWS}
    lines = [
        "# The paper's experiment, simulated",
        "",
        f"`{raw['environment']['command']}`; {asked.seeds} seeds from {FIRST_SEED}; serial cards saturate at "
        + ", ".join(f"{workflow} {count:.1f}" for workflow, count in full.items())
        + " runs within 10 s. Latencies are compared with `power_of_two`. On batching cards, which these loads do not "
        "saturate, *below saturation* is over all N.",
        "",
    ]
    for setting in SETTINGS:
        lines += table(setting, {w: raw[setting.title][w] for w in WORKFLOWS}, full)
    text = "\n".join(lines)
    print(text)
    write("paper_simulated", raw, text)


if __name__ == "__main__":
    main()
