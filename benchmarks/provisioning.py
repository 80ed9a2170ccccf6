"""Provisioning in the simulator: attainment and card-hours of each way to count replicas, over a load that changes.

    python -m benchmarks.provisioning --windows servegen_client_windows_day1.csv.gz --workload m-large
    python -m benchmarks.provisioning --trace azure2023_conv.csv.gz --times 6
    python -m benchmarks.provisioning --loads 5 30 120 300

With `--windows` the load is the measured day of a workload, played in `--day` seconds: 86,400 is its own time, and less
makes load times and windows as many times too long. A trace is played as recorded, each arrival `--times` times.
Without a file it is a sine from a quarter of the peak to the peak.

`static peak` is the least number of replicas, kept all the time, that attains the quantile in every part of the load
(24 minutes of a day, one of a trace); `static, day` the least that attains it over the whole of it, which overloads
the peak. Both are searched for on the first seed that is reported, so they know the load beforehand. `known beforehand`
has in each `--window` seconds what the projection would have for the arrivals that come in it, ready when they begin:
what is left to gain by seeing further. A replica has 32 slots; `queue length` keeps `--target` of them in use.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.day_loads import Around, Load, MeasuredDay, Sine, Trace
from benchmarks.support.environment import environment, write
from dask_fmware.provisioning import Plan
from dask_fmware.provisioning.capacity import CallClass
from dask_fmware.provisioning.sizing import size
from dask_fmware.runtime import Machine
from dask_fmware.simulate.engines import VirtualFleet
from dask_fmware.simulate.provisioned import ProvisioningController, inventory_of_scenario
from dask_fmware.simulate.report import interval
from dask_fmware.simulate.scenario import Scenario
from dask_fmware.simulate.workload import SampledRun, Workload
from dask_fmware.simulate.world import Outcome, World
from dask_fmware.spec.provisioning import Provisioning

QUANTILE = 0.95
POLICY = "greedy"  # the default of deployments
MOST_CARDS = 120
INTERVAL_S = 5.0  # between two looks
PARTS = 60  # of the load, of which the worst is looked at
PROMPT = (1250, 0.6)  # median and sigma of tokens, where the load brings none
OUTPUT = (3000, 0.6)  # of a model that thinks before it answers
FEWEST = 20  # runs of a part that say anything


@dataclass(frozen=True)
class Played:
    """One simulation."""

    goodput: float
    goodput_worst: float
    card_hours: float
    changes: int


def scenario(load_s: float, load: Load, count: int = 1) -> Scenario:
    """Llama-3.1-8B on L40S, as in the catalog; long answers in one call, some 14 calls a minute on a card.

    What lengths are usual is known beforehand; a trace brings its own.
    """
    usual = load.load if isinstance(load, Around) else load
    prompt, output = usual.medians if isinstance(usual, Trace) else (PROMPT[0], OUTPUT[0])
    hosting = {"slots": 32, "kv_tokens": 200_000, "catalog": ["Llama-3.1-8B", "L40S"], "load_s": load_s}
    node = {
        "model": "8b",
        "answers": True,
        "prompt": {"lognormal": [prompt, PROMPT[1]], "most": 6000},
        "output": {"lognormal": [output, OUTPUT[1]], "most": 12000},
    }
    return Scenario.model_validate({
        "name": "day",
        "cards": {"L40S": {"count": count, "most": MOST_CARDS, "price_per_hour": 1.0}},
        "models": {"8b": {"on": {"L40S": hosting}}},
        "workflows": {"chat": {"slo": {"ttft_s": 1.0}, "nodes": {"answer": node}}},
        "arrivals": {"kind": "poisson", "rate": 1.0, "duration_s": 1.0},
        "warm_start": True,
    })  # fmt: skip


def runs(spec: Scenario, load: Load, seed: int) -> Iterator[SampledRun]:
    """The same for every way."""
    workload = Workload(spec, seed)
    return (workload.run("chat", f"r{i}", arrival) for i, arrival in enumerate(load.arrivals(seed)))


def static(load: Load, seed: int, count: int) -> Played:
    """`count` replicas all the time."""
    return _played(scenario(0.0, load, count), load, seed, None)


def scaled(load: Load, load_s: float, options: Provisioning, start: int, seed: int) -> Played:
    """Replicas as `options` have it, from `start` of them."""
    spec = scenario(load_s, load, start)
    return _played(spec, load, seed, ProvisioningController(spec, options))


def foreseen(load: Load, window_s: float, seed: int) -> Played:
    """Replicas by the arrivals that each window will bring."""
    return _played(scenario(0.0, load), load, seed, Foreseen(scenario(0.0, load), load, window_s, seed))


class Foreseen:
    """A controller that knows what comes; a replica that is to go serves what it has."""

    def __init__(self, spec: Scenario, load: Load, window_s: float, seed: int) -> None:
        self._window_s = window_s
        self.plans: list[Plan] = []
        inventory, options = inventory_of_scenario(spec), Provisioning(quantile=QUANTILE)
        parts: dict[int, list[SampledRun]] = {}
        for run in runs(spec, load, seed):
            parts.setdefault(int(run.arrival // window_s), []).append(run)
        self._counts = {}
        for part, some in parts.items():
            lengths = [length for run in some for node in run.nodes for length in node.calls]
            prompt, output = (sum(one[i] for one in lengths) / len(lengths) for i in (0, 1))
            calls = CallClass("chat.answer", "8b", len(some) / window_s, prompt, output, 1.0, answers=True)
            self._counts[part] = sum(size(inventory, [calls], options).mix.replicas.values())

    def control(self, fleet: VirtualFleet, machine: Machine, now: float) -> float | None:
        """Start and drain at the beginning of each window; end what has drained."""
        here = [replica for replica in fleet if replica.state in ("ready", "draining")]
        for replica in here:
            if replica.state == "draining" and not replica.running:
                fleet.stop(replica.replica_id)
        wanted = max(self._counts.get(int(now // self._window_s), 0), 1)
        ready = [replica for replica in fleet if replica.state == "ready"]
        for replica in sorted(ready, key=lambda r: r.running)[: max(len(ready) - wanted, 0)]:
            fleet.drain(replica.replica_id)
        draining = [replica for replica in fleet if replica.state == "draining"]
        for replica in draining[: max(wanted - len(ready), 0)]:
            fleet.drain(replica.replica_id, draining=False)
        for _ in range(wanted - len(ready) - len(draining)):
            fleet.start("8b", "L40S")
        return now + INTERVAL_S


def _played(spec: Scenario, load: Load, seed: int, controller: ProvisioningController | Foreseen | None) -> Played:
    parts = [[0, 0] for _ in range(PARTS)]  # runs in time, all
    part_s = (load.load if isinstance(load, Around) else load).length_s / PARTS

    def ended(outcome: Outcome) -> None:
        part = parts[min(int(outcome.run.arrival / part_s), PARTS - 1)]
        part[0] += outcome.met
        part[1] += 1

    world = World(spec, POLICY, runs(spec, load, seed), seed, controller=controller, ended=ended)
    world.play()
    worst = min(met / count for met, count in parts if count >= FEWEST)
    changes = sum(len(plan.steps) for plan in controller.plans) if controller is not None else 0
    goodput = sum(met for met, _ in parts) / sum(count for _, count in parts)
    return Played(goodput, worst, sum(world.card_seconds.values()) / 3600.0, changes)


def static_peak(load: Load, seed: int, begin: int) -> int:
    """Least number of replicas that attain the quantile in every part, searched for from `begin` on."""
    part_s = load.length_s / PARTS
    busiest = Around(load, min(8 * part_s, load.length_s))

    def attains(count: int) -> bool:
        return static(busiest, seed, count).goodput_worst >= QUANTILE

    count = begin
    if attains(count):
        while count > 1 and attains(count - 1):
            count -= 1
        return count
    while not attains(count + 1):
        count += 1
    return count + 1


def static_day(load: Load, seed: int, most: int) -> int:
    """Least number of replicas up to `most` that attain the quantile over the whole of a load."""
    least, good = 1, most
    while least < good:
        middle = (least + good) // 2
        if static(load, seed, middle).goodput >= QUANTILE:
            good = middle
        else:
            least = middle + 1
    return good


def queue_length(target: float, load_s: float) -> Provisioning:
    """As Ray Serve has it, with its default delays."""
    return Provisioning(
        mode="queue_length", target_ongoing=target, load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S
    )


def ways(load_s: float, target: float) -> dict[str, Provisioning]:
    """What is compared with static cards."""
    return {
        "projection": Provisioning(load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S),
        "projection, 99 % asked for": Provisioning(load_s=load_s, quantile=0.99, interval_s=INTERVAL_S),
        "simple (the paper's)": Provisioning(mode="simple", load_s=load_s, quantile=QUANTILE, interval_s=INTERVAL_S),
        f"queue length, {target:g} each": queue_length(target, load_s),
    }


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        title,
        "",
        "| load time | way | goodput | in its worst sixtieth | card-hours of static peak | changes |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        load = f"{r['load_s']:g} s" if r["load_s"] is not None else "any"
        lines.append(
            f"| {load} | {r['way']} | {r['goodput']:.3f} ({r['goodput_low']:.3f} - {r['goodput_high']:.3f}) "
            f"| {r['goodput_worst']:.3f} | {r['share']:.2f} ({r['share_low']:.2f} - {r['share_high']:.2f}) "
            f"| {r['changes']:.0f} |"
        )
    return "\n".join(lines)


def row(load_s: float | None, way: str, found: Sequence[Played], base: float) -> dict[str, Any]:
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
    parser.add_argument("--day", type=float, default=86_400.0, help="seconds of a day")
    parser.add_argument("--peak", type=float, default=2.5, help="runs a second")
    parser.add_argument("--trace", type=Path, help="CSV with arrival_s, prompt_tokens, output_tokens; may be gzipped")
    parser.add_argument("--times", type=int, default=6, help="arrivals for each of the trace")
    parser.add_argument("--windows", type=Path, help="CSV with workload, window_start_s, rate_rps, gzipped")
    parser.add_argument("--workload", default="", help="of that file")
    parser.add_argument("--target", type=float, default=24.0, help="calls a replica, queue length")
    parser.add_argument("--window", type=float, default=300.0, help="seconds for which replicas are known beforehand")
    parser.add_argument("--begin", type=int, default=10, help="static cards that are tried first")
    parser.add_argument("--ways", help="only those whose name has this in it")
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
    with ProcessPoolExecutor(asked.workers) as pool:
        peak = pool.submit(static_peak, load, seeds[0], asked.begin).result()
        title += f" Static peak: {peak} cards."
        waited: dict[tuple[float | None, str], list[Future[Played]]] = {
            (None, f"static peak, {peak}"): [pool.submit(static, load, seed, peak) for seed in seeds],
            (None, f"known beforehand, {asked.window:g} s"): [
                pool.submit(foreseen, load, asked.window, seed) for seed in seeds
            ],
        }
        for way in [way for way in ways(0.0, asked.target) if (asked.ways or "") in way]:
            for load_s in asked.loads:
                options = ways(load_s, asked.target)[way]
                start = asked.begin // 2
                waited[load_s, way] = [pool.submit(scaled, load, load_s, options, start, seed) for seed in seeds]
        day = pool.submit(static_day, load, seeds[0], peak)
        base = interval([one.result().card_hours for one in waited[None, f"static peak, {peak}"]]).mean
        for (load_s_, way), some in waited.items():
            rows.append(row(load_s_, way, [one.result() for one in some], base))
            print(rows[-1], flush=True)
            data = {"environment": environment(seed=asked.first_seed), "static_peak": peak}
            write(asked.name, {**data, "rows": rows}, table(title, rows))
        least = day.result()
        rows.append(row(None, f"static, day, {least}", [static(load, seed, least) for seed in seeds], base))
        write(asked.name, {**data, "static_day": least, "rows": rows}, table(title, rows))


if __name__ == "__main__":
    main()
