"""How much latency below saturation there is to save in the paper's setting: policies beside the best schedules that a
search with hindsight finds.

    python -m benchmarks.paper_latency

Everything is known to the search: arrivals, paths, lengths. It looks for the least mean latency, and once more for the
least mean time to first token; each schedule it looks at is feasible. What nobody can do better than stands last: every
run alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.support.environment import environment, write
from benchmarks.support.within import within
from dask_fmware.policy.schedule import Line, Task, place_jobs
from dask_fmware.simulation.clairvoyant import true_tasks
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario, WindowArrivals, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SCENARIO = Path(__file__).parent / "scenarios" / "paper.yaml"
BASELINE = "power_of_two"
POLICIES = (BASELINE, "greedy", "slack")
Lanes = list[list[list[int | None]]]  # of each call of each task of each run: the lane it has to take, if any


@dataclass(frozen=True)
class Means:
    """Seconds, over the runs of one seed."""

    latency: float
    ttft: float


def forced(jobs: Sequence[Sequence[Task]], lanes: Lanes) -> list[list[Task]]:
    """The jobs without deadlines and with only the lane that a call has to take."""
    made = []
    for job, some in zip(jobs, lanes, strict=True):
        tasks = []
        for task, calls in zip(job, some, strict=True):
            times = tuple(
                each if lane is None else tuple(t if i == lane else None for i, t in enumerate(each))
                for each, lane in zip(task.calls, calls, strict=True)
            )
            tasks.append(task._replace(due=inf, calls=times))
        made.append(tasks)
    return made


class Search:
    """Looks for the schedule with the least mean of something."""

    def __init__(self, scenario: Scenario, runs: Sequence[SampledRun]) -> None:
        self._runs = runs
        self._jobs = true_tasks(scenario, runs)
        self._cards = sum(card.count for card in scenario.cards.values())

    def means(self, order: Sequence[int], lanes: Lanes) -> Means:
        lines: list[Line] = [[] for _ in range(self._cards)]
        placed = place_jobs(lines, forced(self._jobs, lanes), order, [False] * len(order))
        ends, firsts = 0.0, 0.0
        for i, calls in placed.items():
            tasks = self._jobs[i]
            ends += max(c.end for c in calls) - self._runs[i].arrival
            firsts += min(c.done for c in calls if tasks[c.task].answers) - self._runs[i].arrival
        return Means(ends / len(self._runs), firsts / len(self._runs))

    def least(self, of: Callable[[Means], float], tries: int, seed: int) -> Means:
        count, draw = len(self._runs), random.Random(seed)
        lanes: Lanes = [[[None] * len(task.calls) for task in job] for job in self._jobs]
        order = sorted(range(count), key=lambda i: self._runs[i].arrival)
        best = self.means(order, lanes)
        for _ in range(tries):
            new_order, new_lanes = list(order), [[list(calls) for calls in job] for job in lanes]
            for _ in range(draw.randint(1, 3)):
                if draw.random() < 0.5:
                    new_order.insert(draw.randrange(count), new_order.pop(draw.randrange(count)))
                else:
                    calls = draw.choice([calls for job in new_lanes for calls in job if calls])
                    calls[draw.randrange(len(calls))] = draw.choice([None, *range(self._cards)])
            found = self.means(new_order, new_lanes)
            if of(found) <= of(best):
                best, order, lanes = found, new_order, new_lanes
        return best

    def alone(self) -> Means:
        """Each run as if there were no other."""
        lanes: Lanes = [[[None] * len(task.calls) for task in job] for job in self._jobs]
        each = []
        for i in range(len(self._runs)):
            lines: list[Line] = [[] for _ in range(self._cards)]
            calls = place_jobs(lines, forced(self._jobs, lanes), [i], [False] * len(self._runs))[i]
            tasks = self._jobs[i]
            arrival = self._runs[i].arrival
            first = min(c.done for c in calls if tasks[c.task].answers)
            each.append((max(c.end for c in calls) - arrival, first - arrival))
        return Means(*(sum(values) / len(values) for values in zip(*each, strict=True)))


def played(scenario: Scenario, policy: str, seed: int) -> Means:
    outcomes = World(scenario, policy, Workload(scenario, seed).runs(), seed).play()
    latency = [o.finished_at - o.run.arrival for o in outcomes]
    ttft = [o.first_token_at - o.run.arrival for o in outcomes]
    return Means(sum(latency) / len(latency), sum(ttft) / len(ttft))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, nargs="+", default=[5, 8], help="runs in ten seconds")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--tries", type=int, default=4000, help="schedules looked at, for each of the two means")
    asked = parser.parse_args()
    base = load_scenario(SCENARIO)
    rows: list[dict[str, Any]] = []
    for name, workflow in base.workflows.items():
        cells: dict[str, list[list[Means]]] = {}
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            mine: dict[str, list[Means]] = {}
            for count in asked.loads:
                arrivals = WindowArrivals(kind="window", count=count, window_s=10.0)
                scenario = base.model_copy(
                    update={"workflows": {name: workflow}, "arrivals": arrivals, "lengths": "deterministic"}
                )
                for policy in POLICIES:
                    mine.setdefault(policy, []).append(played(scenario, policy, seed))
                search = Search(scenario, list(Workload(scenario, seed).runs()))
                mine.setdefault("least latency", []).append(search.least(lambda m: m.latency, asked.tries, seed))
                mine.setdefault("least TTFT", []).append(search.least(lambda m: m.ttft, asked.tries, seed))
                mine.setdefault("each run alone", []).append(search.alone())
            for system, means in mine.items():
                cells.setdefault(system, []).append(means)
        for system, seeds in cells.items():
            row: dict[str, Any] = {"workflow": name, "system": system}
            for what in ("latency", "ttft"):
                own = [sum(getattr(m, what) for m in means) / len(means) for means in seeds]
                theirs = [sum(getattr(m, what) for m in means) / len(means) for means in cells[BASELINE]]
                ratio = interval([a / b - 1 for a, b in zip(own, theirs, strict=True)])
                row[what] = sum(own) / len(own)
                row[f"{what}_saved"] = [ratio.mean, ratio.low, ratio.high]
            rows.append(row)
            print(row, flush=True)
    lines = [
        "# Latency below saturation, the paper's setting, simulated",
        "",
        f"N of {', '.join(map(str, asked.loads))}, {asked.seeds} seeds from {asked.first_seed}, "
        f"{asked.tries} schedules looked at for each mean; against `power_of_two`, means of paired ratios with 95 %.",
        "",
        "| workflow | | mean latency | against | mean TTFT | against |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        saved = row["latency_saved"], row["ttft_saved"]
        shown = [f"{ratio:+.1%}{within(low, high, '+.1%', asked.seeds)}" for ratio, low, high in saved]
        latency, ttft = f"{row['latency']:.2f} s", f"{row['ttft']:.2f} s"
        lines.append(f"| {row['workflow']} | {row['system']} | {latency} | {shown[0]} | {ttft} | {shown[1]} |")
    write("paper_latency", {"environment": environment(seed=asked.first_seed), "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
