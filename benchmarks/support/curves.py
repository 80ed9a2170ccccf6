"""Systems over loads: the cells that all of them have, and what can be said of them with an interval."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.support.trial import WINDOW_S, Cell, model_of, scenario_of
from dask_fmware.simulation.alone import alone_s
from dask_fmware.simulation.report import crossing
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.workload import Workload

__all__ = ["METRICS", "Curves", "Estimate", "kept", "saturation"]

METRICS = ("goodput", "ttft_mean_s", "latency_mean_s", "fast_share")
LEVEL = 0.7
Estimate = tuple[float, float, float]  # value and its 95 % interval
Key = tuple[str, int, int]  # workflow, runs in the window, seed


def kept(path: Path, lengths: str | None = None, plus_s: float | None = None) -> list[dict[str, Any]]:
    """Read the cells of a file, of one setting or of all, without those discarded."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [
        line
        for line in lines
        if "count" in line
        and not line.get("discarded")
        and line["lengths"] == (lengths or line["lengths"])
        and line["plus_s"] == (plus_s or line["plus_s"])
    ]


class Curves:
    """Metrics of systems over loads, for the cells that all of them have.

    Parameters
    ----------
    cells
        As `benchmarks.paper` keeps them.
    systems
        Which to compare; a seed of which one of them lacks a load is left out for all.
    """

    def __init__(self, cells: Iterable[dict[str, Any]], systems: Sequence[str]) -> None:
        found: dict[str, dict[Key, dict[str, float]]] = defaultdict(dict)
        for cell in cells:
            found[cell["system"]][cell["workflow"], cell["count"], cell["seed"]] = {m: cell[m] for m in METRICS}
        self.systems = tuple(systems)
        common = set.intersection(*(set(found[system]) for system in systems)) if systems else set()
        complete: dict[tuple[str, int], set[int]] = defaultdict(set)
        for workflow, count, seed in common:
            complete[workflow, seed].add(count)
        self.counts = sorted({count for _, count, _ in common})
        whole = {at for at, counts in complete.items() if counts == set(self.counts)}
        self.workflows = sorted({workflow for workflow, _ in whole})
        self.seeds = {w: sorted(seed for workflow, seed in whole if workflow == w) for w in self.workflows}
        self._found = found

    def value(self, system: str, workflow: str, count: int, seed: int, metric: str) -> float:
        """One cell."""
        return self._found[system][workflow, count, seed][metric]

    def over_seeds(self, system: str, workflow: str, count: int, metric: str) -> list[float]:
        """One load, a value for each seed."""
        return [self.value(system, workflow, count, seed, metric) for seed in self.seeds[workflow]]

    def largest_n(self, system: str, workflow: str, seeds: Sequence[int] | None = None) -> float:
        """Largest load with 70 % goodput, of the mean over seeds; the least load if it is not reached there."""
        chosen = self.seeds[workflow] if seeds is None else seeds
        means = [fmean(self.value(system, workflow, n, seed, "goodput") for seed in chosen) for n in self.counts]
        return max(crossing(self.counts, means, LEVEL), self.counts[0])

    def shown_n(self, system: str, workflow: str) -> str:
        """`largest_n` as text."""
        value = self.largest_n(system, workflow)
        return f"at most {value:g}" if value == self.counts[0] else f"{value:.1f}"

    def average(self, system: str, workflow: str, metric: str, most: float = 1e9) -> list[float]:
        """Mean over the loads up to `most`, for each seed."""
        counts = [count for count in self.counts if count <= most]
        return [
            fmean(self.value(system, workflow, count, seed, metric) for count in counts)
            for seed in self.seeds[workflow]
        ]

    def ratio(self, system: str, base: str, workflow: str, metric: str, most: float = 1e9) -> Estimate:
        """Median over seeds of the ratio to a base system, and the 95 % bootstrap interval of that median."""
        pairs = zip(
            self.average(system, workflow, metric, most), self.average(base, workflow, metric, most), strict=True
        )
        return _resampled([one / other if other else float("inf") for one, other in pairs], median)

    def n_ratio(self, system: str, base: str, workflow: str) -> Estimate:
        """Ratio of the largest loads at 70 %, with its 95 % bootstrap interval over seeds."""
        seeds, draw = self.seeds[workflow], random.Random(0)

        def of(chosen: Sequence[int]) -> float:
            other = self.largest_n(base, workflow, chosen)
            return self.largest_n(system, workflow, chosen) / other if other else float("inf")

        drawn = sorted(of(draw.choices(seeds, k=len(seeds))) for _ in range(400))
        return of(seeds), drawn[10], drawn[389]


def _resampled(values: Sequence[float], what: Callable[[Sequence[float]], float]) -> Estimate:
    draw = random.Random(len(values))
    drawn = sorted(what(draw.choices(values, k=len(values))) for _ in range(1000))
    return what(values), drawn[25], drawn[974]


def saturation(workflow: Any) -> float:
    """Runs within the window that both cards are busy with for exactly the window."""
    scenario = scenario_of(Cell(workflow, 30, 0))
    runs = [run for seed in range(10) for run in Workload(scenario, seed).runs()]

    def busy_s(run: SampledRun, card: str) -> float:
        total_s = 0.0
        for node in run.nodes:
            if node.taken and node.calls:
                hosting = scenario.models[model_of(node)].on[card]
                total_s += sum(alone_s(hosting.step_law, hosting.limits, (call,))[1] for call in node.calls)
        return total_s

    return WINDOW_S * sum(1.0 / fmean(busy_s(run, card) for run in runs) for card in scenario.cards)
