"""Provisioning in the simulator: attainment and card-hours of each way to count replicas, over a day-shaped load.

    python -m benchmarks.provisioning --loads 30 120 --seeds 5
    python -m benchmarks.provisioning --trace azure2023_conv.csv.gz --seeds 5

A "day" is a sine of one period, `--day` seconds long, from a quarter of the peak to the peak; a trace is played as
recorded. `static` is the least number of replicas, kept all the time, that attains the quantile on seed 0: peak
provisioning with hindsight. `queue_length` is run with each of three targets, and the best of them is shown.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
from collections.abc import Iterator
from math import cos, pi
from pathlib import Path
from typing import Any

from benchmarks.environment import environment, write
from dask_fmware.simulate.arrivals import Arrival
from dask_fmware.simulate.provisioned import ProvisioningController
from dask_fmware.simulate.report import interval
from dask_fmware.simulate.scenario import Scenario
from dask_fmware.simulate.tally import measure
from dask_fmware.simulate.workload import SampledRun, Workload
from dask_fmware.simulate.world import World
from dask_fmware.spec.provisioning import Provisioning

PEAK = 20.0  # runs a second
ONGOING = (6.0, 12.0, 20.0)


def scenario(load_s: float, count: int = 1) -> Scenario:
    """Llama-3.1-8B on L40S, as in the catalog; chats of one call."""
    hosting = {"slots": 32, "kv_tokens": 150_000, "catalog": ["Llama-3.1-8B", "L40S"], "load_s": load_s}
    node = {
        "model": "8b",
        "answers": True,
        "prompt": {"lognormal": [800, 0.6], "most": 4000},
        "output": {"lognormal": [200, 0.6], "most": 800},
    }
    return Scenario.model_validate({
        "name": "day",
        "cards": {"L40S": {"count": count, "most": 40, "price_per_hour": 1.0}},
        "models": {"8b": {"on": {"L40S": hosting}}},
        "workflows": {"chat": {"slo": {"ttft_s": 1.0}, "nodes": {"answer": node}}},
        "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
        "warm_start": True,
    })  # fmt: skip


def times(seed: int, day_s: float, trace: list[Arrival] | None) -> Iterator[Arrival]:
    if trace is not None:
        span = trace[-1].at
        shift = random.Random(f"shift {seed}").uniform(0.0, span)
        turned = sorted((a.at - shift) % span for a in trace)
        yield from (Arrival(at) for at in turned)
        return
    draw, at = random.Random(f"day {seed}"), 0.0
    while (at := at + draw.expovariate(PEAK)) < day_s:
        if draw.random() < 0.25 + 0.75 * (0.5 - 0.5 * cos(2 * pi * at / day_s)):
            yield Arrival(at)


def runs(spec: Scenario, seed: int, day_s: float, trace: list[Arrival] | None) -> list[SampledRun]:
    workload = Workload(spec, seed)
    return [workload.run("chat", f"r{i}", arrival) for i, arrival in enumerate(times(seed, day_s, trace))]


def played(spec: Scenario, work: list[SampledRun], seed: int, options: Provisioning | None) -> tuple[float, float, int]:
    controller = ProvisioningController(spec, options) if options is not None else None
    world = World(spec, "slack", work, seed, controller=controller)
    found = measure(spec, world.play(), world.card_seconds)
    changes = sum(len(plan.steps) for plan in controller.plans) if controller is not None else 0
    return found.goodput, sum(world.card_seconds.values()) / 3600.0, changes


def least_static(day_s: float, trace: list[Arrival] | None, quantile: float) -> int:
    low, high = 1, 40
    while low < high:
        middle = (low + high) // 2
        spec = scenario(0.0, middle)
        if played(spec, runs(spec, 0, day_s, trace), 0, None)[0] >= quantile:
            high = middle
        else:
            low = middle + 1
    return low


def ways(load_s: float) -> dict[str, Provisioning]:
    made = {
        "projection": Provisioning(load_s=load_s),
        "simple (the paper's)": Provisioning(mode="simple", load_s=load_s),
    }
    for ongoing in ONGOING:
        made[f"queue length, {ongoing:g} each"] = Provisioning(
            mode="queue_length", target_ongoing=ongoing, load_s=load_s
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[5, 30, 120, 300], help="load times in seconds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--day", type=float, default=7200.0, help="seconds of a day")
    parser.add_argument("--trace", type=Path, help="CSV with arrival_s, may be gzipped")
    parser.add_argument("--name", default="provisioning_day")
    asked = parser.parse_args()
    trace = _trace(asked.trace) if asked.trace is not None else None
    static = least_static(asked.day, trace, 0.95)
    rows: list[dict[str, Any]] = []
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    for load_s in asked.loads:
        cells = {"static peak": [_static(static, asked.day, trace, seed) for seed in seeds]}
        for name, options in ways(load_s).items():
            spec = scenario(load_s, max(1, static // 4))
            cells[name] = [played(spec, runs(spec, seed, asked.day, trace), seed, options) for seed in seeds]
        base = interval([hours for _, hours, _ in cells["static peak"]]).mean
        for name, found in cells.items():
            goodput, hours = interval([g for g, _, _ in found]), interval([h for _, h, _ in found])
            row = {
                "load_s": load_s, "way": name, "goodput": goodput.mean, "goodput_low": goodput.low,
                "goodput_high": goodput.high, "card_hours": hours.mean, "share_of_static": hours.mean / base,
                "share_low": hours.low / base, "share_high": hours.high / base,
                "changes": sum(c for _, _, c in found) / len(found),
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    lines = [
        "# Provisioning: attainment and card-hours",
        "",
        f"{'Trace ' + asked.trace.name if asked.trace else f'A day of {asked.day:g} s'}, {len(seeds)} seeds from "
        f"{asked.first_seed}; static peak is {static} cards. Means with 95 % intervals over seeds.",
        "",
        "| load time | way | goodput | card-hours of static | changes |",
        "|---|---|---|---|---|",
        *(
            f"| {r['load_s']:g} s | {r['way']} | {r['goodput']:.3f} ({r['goodput_low']:.3f} - {r['goodput_high']:.3f}) "
            f"| {r['share_of_static']:.2f} ({r['share_low']:.2f} - {r['share_high']:.2f}) | {r['changes']:.0f} |"
            for r in rows
        ),
    ]
    data = {"environment": environment(seed=asked.first_seed), "static_cards": static, "rows": rows}
    write(asked.name, data, "\n".join(lines))


def _static(count: int, day_s: float, trace: list[Arrival] | None, seed: int) -> tuple[float, float, int]:
    spec = scenario(0.0, count)
    return played(spec, runs(spec, seed, day_s, trace), seed, None)


def _trace(path: Path) -> list[Arrival]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [Arrival(float(row["arrival_s"])) for row in csv.DictReader(text.splitlines())]


if __name__ == "__main__":
    main()
