"""What is left of runs: every index of the machine after a million simulated ones, a real scheduler over 50,000.

    python -m benchmarks.bounded_memory [--runs 1000000] [--real-runs 50000] [--only simulated|real]

Simulated: all shapes of workflows, rejected deadlines and a card lost or slowed every minute; the machine is watched by
the observers that it has on a scheduler. All containers that can be reached from it are counted
(`dask_fmware.testing.indexes`), so none is forgotten: after a tenth of the runs, and after the last.

Real: a scheduler in a process of its own, emulated engines that answer at once, two calls and plain code a run. Its
resident memory over the runs, what the kept reports take of it, and what Dask's own log of transitions takes.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from distributed import Client
from rich.progress import Progress

import dask_fmware as fm
from benchmarks.support.environment import RESULTS, environment, write
from benchmarks.support.processes import Cluster, resident
from dask_fmware.observe import History
from dask_fmware.runtime.demand import Demand
from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Failure, PoissonArrivals, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from dask_fmware.testing.indexes import entries, instances

SCENARIO = Path(__file__).parent / "scenarios" / "bounded.yaml"
SEED = 1000
RATE = 60.0  # runs a second
FAULT_S = 60.0  # between two cards that fail
LOOKS = 100  # at resident memory
RECORDS = ("RunRecord", "CallRecord", "RunReport", "CallReport", "AttemptReport", "Stay", "RunPlan")
SLOTS = 256
IN_FLIGHT = 48
KEPT = 10_000  # reports that a scheduler keeps


# -- simulated ---------------------------------------------------------------------------------------


def failures(seconds: float) -> Iterator[Failure]:
    """A card is lost for ten seconds, the next one slowed, and so on."""
    cards = cycle([f"{kind}-{n}" for n in range(4) for kind in ("fast", "slow")])
    for number in range(int(seconds / FAULT_S)):
        slow = 4.0 if number % 2 else None
        yield Failure(card=next(cards), at_s=FAULT_S * (number + 0.5), down_s=10.0, slow=slow)


def simulated(runs: int, policy: str) -> dict[str, Any]:
    """Play so many runs and count what the machine remembers."""
    scenario = load_scenario(SCENARIO)
    seconds = runs / RATE
    scenario = scenario.model_copy(
        update={
            "arrivals": PoissonArrivals(kind="poisson", duration_s=2 * seconds),
            "failures": tuple(failures(seconds)),
        }
    )
    ends: Counter[str] = Counter()
    looks: list[tuple[int, float]] = []
    early: Counter[str] = Counter()
    mine = psutil.Process()
    progress = Progress()
    task = progress.add_task(f"{runs:,} simulated runs, {policy}", total=runs)

    def ended(outcome: Outcome) -> None:
        ends["in time" if outcome.met else "late" if outcome.finished_at < float("inf") else "failed"] += 1
        if (done := ends.total()) % max(runs // LOOKS, 1) == 0:
            looks.append((done, mine.memory_info().rss / 1e6))
            progress.update(task, completed=done)
            if done == runs // 10:
                early.update(entries(world.machine))

    def arriving() -> Iterator[SampledRun]:
        for _, run in zip(range(runs), Workload(scenario, SEED).drawn(rate=RATE), strict=False):
            yield run

    world = World(scenario, policy, arriving(), SEED, ended=ended)
    demand = Demand(world.machine)
    world.machine.observers.append(History(world.machine))
    world.machine.observers.append(demand)
    began = time.process_time()
    with progress:
        world.play()
    demand.models(world.now)  # the planner looks every second
    left, found = entries(world.machine), instances(world.machine)
    return {
        "policy": policy,
        "runs": ends.total(),
        "ends": dict(ends),
        "calls": world.calls,
        "cpu_s": time.process_time() - began,
        "simulated_s": world.end_s,
        "entries": {name: [early[name], left[name]] for name in sorted({*early, *left})},
        "records_left": {name: count for name in RECORDS if (count := found[name])},
        "resident_mb": looks,
    }


# -- real processes ----------------------------------------------------------------------------------

model = fm.Model("empty", max_tokens=1)


@fm.task
def between(text: str) -> str:
    return text


@fm.workflow
def two(x):  # type: ignore[no-untyped-def]
    return model("{x}", name="answer", x=between(model("{x}", name="rewrite", x=x)))


def deployment() -> dict[str, Any]:
    """One replica whose engine answers at once."""
    figure = {"first_token_s": 0.001, "output_token_s": 0.0}
    served = {"engine": "null", "slots": SLOTS, "on": {"card": {"replicas": 1, "latency": figure}}}
    return {"accelerators": {"card": {"cards": 1}}, "models": {"empty": served}}


def scheduler_sizes(dask_scheduler: Any) -> dict[str, float]:
    """What the router's memory of runs takes, and Dask's of transitions, in bytes (runs on the scheduler)."""

    def deep(value: Any, seen: set[int]) -> int:
        if id(value) in seen or value is None or isinstance(value, (bool, type)):
            return 0
        seen.add(id(value))
        size = sys.getsizeof(value)
        if isinstance(value, dict):
            return size + sum(deep(key, seen) + deep(one, seen) for key, one in value.items())
        if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
            return size + sum(deep(one, seen) for one in value)
        return size

    machine = dask_scheduler.plugins["fmware-router"].machine
    history, log = machine.runs._history, dask_scheduler.transition_log
    left = entries(machine)
    return {
        "reports": len(history),
        "reports_bytes": deep(dict(history), set()),
        "transitions": len(log),
        "transitions_bytes": deep(log, set()),
        "tasks": len(dask_scheduler.tasks),
        "calls": left["Runs.calls"],
        "slots_taken": left["Fleet._slots"],
    }


async def drive(address: str, pid: int, runs: int) -> dict[str, Any]:
    """Do so many runs, some at a time, and look at the scheduler's memory."""
    looks: list[tuple[int, float, float]] = []
    client = await Client(address, asynchronous=True, set_as_default=False)
    mine, done, given = psutil.Process(), 0, iter(range(runs))
    progress = Progress()
    task = progress.add_task(f"{runs:,} real runs", total=runs)

    async def slot() -> None:
        nonlocal done
        for number in given:
            await client.compute(two(x=f"{number}"))
            done += 1
            if done % max(runs // LOOKS, 1) == 0:
                looks.append((done, resident(pid) / 1e6, mine.memory_info().rss / 1e6))
                progress.update(task, completed=done)

    began = time.monotonic()
    with progress:
        await asyncio.gather(*[slot() for _ in range(IN_FLIGHT)])
    took_s = time.monotonic() - began
    await asyncio.sleep(1.0)
    sizes = await client.run_on_scheduler(scheduler_sizes)
    await client.close()
    return {"runs": done, "seconds": took_s, "looks": looks, "sizes": sizes}


def real(runs: int) -> dict[str, Any]:
    """Start a cluster of processes and drive it."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), deployment(), {"empty": SLOTS}, "benchmarks.support.null_engine")
        cluster.start()
        try:
            assert cluster.scheduler is not None
            return asyncio.run(drive(cluster.address, cluster.scheduler.pid, runs))
        finally:
            cluster.stop()


# -- results -----------------------------------------------------------------------------------------


def table(title: str, where: dict[str, Any], lines: list[str]) -> str:
    """One result for people."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    host = f"{where['processor']}, {where['cores']} cores, Python {where['python']}, {versions}, seed {where['seed']}"
    return "\n".join([f"# {title}", "", f"`{where['command']}` on {host}.", "", *lines])


def _simulated_table(one: dict[str, Any]) -> list[str]:
    ends = ", ".join(f"{count:,} {name}" for name, count in sorted(one["ends"].items()))
    left = ", ".join(f"{count} {name}" for name, count in one["records_left"].items()) or "none"
    resident_mb = [mb for _, mb in one["resident_mb"]]
    empty = [name for name, (_, late) in one["entries"].items() if not late]
    kept = {name: counts for name, counts in one["entries"].items() if counts[1]}
    return [
        f"## {one['runs']:,} simulated runs under `{one['policy']}`",
        "",
        f"{ends}; {one['calls']:,} calls, {one['simulated_s'] / 3600:.1f} simulated hours, {one['cpu_s']:.0f} s of "
        f"CPU. Runs, calls and attempts that can still be reached from the machine: **{left}**. Resident memory of the "
        f"process: {resident_mb[0]:.0f} MB after 1 % of the runs, {resident_mb[-1]:.0f} MB after all.",
        "",
        f"Empty: {', '.join(f'`{name}`' for name in empty)}.",
        "",
        "Not empty, entries after a tenth of the runs and at the end (by name of a workflow, node, tenant, model "
        "or replica, or a window of fixed length):",
        "",
        ", ".join(f"`{name}` {early:,} / {late:,}" for name, (early, late) in kept.items()) + ".",
        "",
    ]


def _real_table(found: dict[str, Any]) -> list[str]:
    sizes, looks = found["sizes"], found["looks"]
    kept = [mb for runs, mb, _ in looks if runs >= 2 * KEPT] or [looks[-1][1]]
    fifth = max(len(kept) // 5, 1)
    return [
        f"{found['runs']:,} runs of two calls and plain code, {IN_FLIGHT} at a time, "
        f"{found['runs'] / found['seconds']:.0f} a second. "
        f"Resident memory of the scheduler: {looks[0][1]:.0f} MB after {looks[0][0]:,} runs, then a median of "
        f"{median(kept[:fifth]):.0f} MB in the fifth of the runs after {2 * KEPT:,} and {median(kept[-fifth:]):.0f} MB "
        "in the last fifth.",
        "",
        "| kept on the scheduler | entries | MB | bytes each |",
        "|---|---|---|---|",
        *(
            f"| {title} | {sizes[name]:,} | {sizes[name + '_bytes'] / 1e6:.1f} | "
            f"{sizes[name + '_bytes'] / max(sizes[name], 1):.0f} |"
            for name, title in (("reports", "reports of runs"), ("transitions", "Dask's log of transitions"))
        ),
        "",
        f"Left of the runs: {sizes['tasks']} tasks, {sizes['calls']} calls, {sizes['slots_taken']} slots.",
        "",
        "![resident memory](bounded_memory_real.png)",
    ]


def picture(looks: list[tuple[int, float, float]], path: Path) -> None:
    """Draw resident memory against runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    runs, scheduler, client = zip(*looks, strict=True)
    axes.plot(runs, scheduler, label="scheduler")
    axes.plot(runs, client, label="client")
    axes.axvline(KEPT, color="#888888", linestyle=":", linewidth=0.8, label="reports that are kept")
    axes.set(xlabel="runs", ylabel="resident memory, MB", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="simulated")
    parser.add_argument("--real-runs", type=int, default=50_000)
    parser.add_argument("--policies", nargs="+", default=["slack"])
    parser.add_argument("--only", choices=["simulated", "real"])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the runs; writes nothing")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    share, where = 100 if asked.quick else 1, environment(seed=SEED)
    if asked.only != "real":
        played = [simulated(asked.runs // share, policy) for policy in asked.policies]
        text = table(
            "What is left of simulated runs", where, [line for one in played for line in _simulated_table(one)]
        )
        print(text)
        if not asked.quick:
            write("bounded_memory_simulated", {"environment": where, "simulated": played}, text)
    if asked.only != "simulated":
        found = real(asked.real_runs // share)
        text = table("What is left of real runs", where, _real_table(found))
        print(text)
        if not asked.quick:
            picture(found["looks"], RESULTS / "bounded_memory_real.png")
            write("bounded_memory_real", {"environment": where, "real": found}, text)


if __name__ == "__main__":
    main()
