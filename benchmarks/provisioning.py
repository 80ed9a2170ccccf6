"""Provisioning in the simulator: attainment and card-hours of each way to count replicas, over a load that changes.

    python -m benchmarks.provisioning --loads 5 30 120 300
    python -m benchmarks.provisioning --windows servegen_client_windows_day1.csv.gz --workload m-large
    python -m benchmarks.provisioning --trace azure2023_conv.csv.gz --times 6

Without a file the load is a sine from a quarter of the peak to the peak: its mean is 62.5 % of its peak, below which no
scaler can go. With `--windows` it is the measured day of a workload, in `--day` seconds; a trace is played as recorded,
each arrival `--times` times.

`static peak` is the least number of replicas, kept all the time, that attains the quantile in every sixtieth part of
the load; `static, day` the least that attains it over the whole of it, which overloads the peak. Both are chosen on
the seeds that are reported, so they know the load beforehand. A replica has 32 slots; `queue length` keeps `--target`
of them in use.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.day_loads import Load, MeasuredDay, Sine, Trace
from benchmarks.support.environment import environment, write
from dask_fmware.simulate.provisioned import ProvisioningController
from dask_fmware.simulate.report import interval
from dask_fmware.simulate.scenario import Scenario
from dask_fmware.simulate.tally import measure
from dask_fmware.simulate.workload import SampledRun, Workload
from dask_fmware.simulate.world import World
from dask_fmware.spec.provisioning import Provisioning

QUANTILE = 0.95
POLICY = "greedy"  # the default of deployments
MOST_CARDS = 120
INTERVAL_S = 2.0  # between two looks
PARTS = 60  # of the load, of which the worst is looked at
FEWEST = 20  # runs of a part that say anything


@dataclass(frozen=True)
class Played:
    """One simulation."""

    goodput: float
    goodput_worst: float
    card_hours: float
    changes: int


def scenario(load_s: float, count: int = 1) -> Scenario:
    """Llama-3.1-8B on L40S, as in the catalog; chats of one call with long answers, half a call a second on a card."""
    hosting = {"slots": 32, "kv_tokens": 150_000, "catalog": ["Llama-3.1-8B", "L40S"], "load_s": load_s}
    node = {
        "model": "8b",
        "answers": True,
        "prompt": {"lognormal": [1250, 0.6], "most": 6000},
        "output": {"lognormal": [1300, 0.6], "most": 4000},
    }
    return Scenario.model_validate({
        "name": "day",
        "cards": {"L40S": {"count": count, "most": MOST_CARDS, "price_per_hour": 1.0}},
        "models": {"8b": {"on": {"L40S": hosting}}},
        "workflows": {"chat": {"slo": {"ttft_s": 1.0}, "nodes": {"answer": node}}},
        "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
        "warm_start": True,
    })  # fmt: skip


def runs(spec: Scenario, load: Load, seed: int) -> list[SampledRun]:
    """The same for every way."""
    workload = Workload(spec, seed)
    return [workload.run("chat", f"r{i}", arrival) for i, arrival in enumerate(load.arrivals(seed))]


def static(load: Load, seed: int, count: int) -> Played:
    """`count` replicas all the time."""
    return _played(scenario(0.0, count), load, seed, None)


def scaled(load: Load, load_s: float, options: Provisioning, start: int, seed: int) -> Played:
    """Replicas as `options` have it, from `start` of them."""
    return _played(scenario(load_s, start), load, seed, options)


def _played(spec: Scenario, load: Load, seed: int, options: Provisioning | None) -> Played:
    controller = ProvisioningController(spec, options) if options is not None else None
    world = World(spec, POLICY, runs(spec, load, seed), seed, controller=controller)
    parts: list[list[bool]] = [[] for _ in range(PARTS)]

    def watched() -> Any:
        for outcome in world.play():
            parts[min(int(PARTS * outcome.run.arrival / load.length_s), PARTS - 1)].append(outcome.met)
            yield outcome

    found = measure(spec, watched(), world.card_seconds)
    worst = min(sum(part) / len(part) for part in parts if len(part) >= FEWEST)
    changes = sum(len(plan.steps) for plan in controller.plans) if controller is not None else 0
    return Played(found.goodput, worst, sum(world.card_seconds.values()) / 3600.0, changes)


def least_static(found: Mapping[int, Sequence[Played]], figure: str) -> int:
    """Least number of replicas with which a figure is the quantile on average, else the largest that was tried."""
    good = [n for n, played in found.items() if sum(getattr(p, figure) for p in played) >= QUANTILE * len(played)]
    return min(good, default=max(found))


def queue_length(target: float, load_s: float) -> Provisioning:
    """As Ray Serve has it, with its default delays."""
    return Provisioning(
        mode="queue_length", target_ongoing=target, load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S
    )


def ways(load_s: float, target: float) -> dict[str, Provisioning]:
    """What is compared with static cards."""
    return {
        "projection": Provisioning(load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S),
        "simple (the paper's)": Provisioning(mode="simple", load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S),
        f"queue length, {target:g} each": queue_length(target, load_s),
    }


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        title,
        "",
        "| load time | way | goodput | in its worst sixtieth | card-hours of static peak | changes |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['load_s']:g} s | {r['way']} | {r['goodput']:.3f} ({r['goodput_low']:.3f} - {r['goodput_high']:.3f}) "
            f"| {r['goodput_worst']:.3f} | {r['share']:.2f} ({r['share_low']:.2f} - {r['share_high']:.2f}) "
            f"| {r['changes']:.0f} |"
            for r in rows
        ),
    ]
    return "\n".join(lines)


def row(load_s: float, way: str, found: Sequence[Played], base: float) -> dict[str, Any]:
    goodput, hours = interval([p.goodput for p in found]), interval([p.card_hours for p in found])
    return {
        "load_s": load_s, "way": way, "goodput": goodput.mean, "goodput_low": goodput.low, "goodput_high": goodput.high,
        "goodput_worst": sum(p.goodput_worst for p in found) / len(found),
        "card_hours": hours.mean, "share": hours.mean / base, "share_low": hours.low / base,
        "share_high": hours.high / base, "changes": sum(p.changes for p in found) / len(found),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[5, 30, 120, 300], help="load times in seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--day", type=float, default=3600.0, help="seconds of a day")
    parser.add_argument("--peak", type=float, default=8.0, help="runs a second")
    parser.add_argument("--trace", type=Path, help="CSV with arrival_s, prompt_tokens, output_tokens; may be gzipped")
    parser.add_argument("--times", type=int, default=6, help="arrivals for each of the trace")
    parser.add_argument("--windows", type=Path, help="CSV with workload, window_start_s, rate_rps, gzipped")
    parser.add_argument("--workload", default="", help="of that file")
    parser.add_argument("--target", type=float, default=24.0, help="calls a replica, queue length")
    parser.add_argument(
        "--counts", type=int, nargs=2, default=(10, 17), help="static cards that are tried: least, most"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--name", default="provisioning_sine")
    asked = parser.parse_args()
    load: Load = Sine(asked.peak, asked.day)
    if asked.trace is not None:
        load = Trace(asked.trace, asked.times)
    elif asked.windows is not None:
        load = MeasuredDay(asked.windows, asked.workload, asked.peak, asked.day)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    title = (
        f"# Provisioning: {load.title}\n\n{load.length_s:g} s long, {len(seeds)} seeds from {asked.first_seed}; "
        f"means with 95 % intervals over seeds. Mean over peak of the rate: {load.mean_share:.2f}."
    )
    rows: list[dict[str, Any]] = []
    start = max(1, min(asked.counts) // 4)
    with ProcessPoolExecutor(asked.workers) as pool:
        cells = {
            (load_s, way): [pool.submit(scaled, load, load_s, options, start, seed) for seed in seeds]
            for load_s in asked.loads
            for way, options in ways(load_s, asked.target).items()
        }
        counts = range(min(asked.counts), max(asked.counts) + 1)
        kept = {n: [pool.submit(static, load, seed, n) for seed in seeds] for n in counts}
        fixed = {n: [one.result() for one in played] for n, played in kept.items()}
        peak, day = least_static(fixed, "goodput_worst"), least_static(fixed, "goodput")
        base = interval([p.card_hours for p in fixed[peak]]).mean
        for load_s in asked.loads:
            found = {f"static peak, {peak}": fixed[peak], f"static, day, {day}": fixed[day]}
            found |= {way: [one.result() for one in cells[load_s, way]] for way in ways(load_s, asked.target)}
            for way, played in found.items():
                rows.append(row(load_s, way, played, base))
                print(rows[-1], flush=True)
            data = {"environment": environment(seed=asked.first_seed), "static_peak": peak, "static_day": day}
            write(asked.name, {**data, "rows": rows}, table(title, rows))


if __name__ == "__main__":
    main()
