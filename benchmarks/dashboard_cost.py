"""What watching costs the scheduler: the page for each viewer, a scrape of /metrics, the history for each call.

    python -m benchmarks.dashboard_cost

A scheduler with its web server runs in this process, on a machine that is filled by events: replicas with running
calls, calls that wait, fifteen minutes of runs that ended. Viewers are another process that asks as the page does,
once a second. What a viewer costs is the CPU time of the event loop's thread for each second, less that of the window
without viewers before it, median over windows; Dask's own system monitor and profiler rest meanwhile. With
``--chromium`` a real browser has the page open for another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

import dask
from tornado.httpclient import AsyncHTTPClient

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from dask_fmware.model.messages import AttemptEnded
from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.observe import History
from dask_fmware.policy import create_policy
from dask_fmware.runtime import CallRunnable, FirstToken, Machine, ReplicaReady, RunDropped, RunEnded, RunSubmitted
from dask_fmware.spec.deployment import Latency
from dask_fmware.testing import deployment

SLOTS = 8
QUIET = {"distributed.admin.system-monitor.interval": "1h", "distributed.worker.profile.enabled": False}
VIEWERS = (1, 4)
VIEWER = """
import json, sys, time, urllib.request
for line in sys.stdin:
    viewers, seconds = line.split()
    known = [{"fleet": -1, "graphs": -1, "predictions": -1} for _ in range(int(viewers))]
    due = time.monotonic()
    end = due + float(seconds)
    while time.monotonic() < end:
        for seen in known:
            query = "&".join(f"{part}={version}" for part, version in seen.items())
            answer = json.load(urllib.request.urlopen(f"{sys.argv[1]}/fmware/figures.json?{query}"))
            seen.update({part: answer[part]["version"] for part in seen if part in answer})
        due += 1.0
        time.sleep(max(0.0, due - time.monotonic()))
"""


def replicas(count: int) -> list[Replica]:
    """Replicas of two models on two kinds of card."""
    kinds = [("small", "L4"), ("large", "L4"), ("large", "A100")]
    made = []
    for i in range(count):
        model, card = kinds[i % 3]
        latency = Latency(first_token_s=0.1, output_token_s=0.01 if card == "A100" else 0.03)
        made.append(
            Replica(f"tcp://10.0.0.1:{i}", f"{model}-{card}-{i}", model, card, f"{card}-{i}", SLOTS, 8192, 16,
                    "emulated", "1", latency)
        )  # fmt: skip
    return made


def run_of(number: int, draw: random.Random) -> RunPlan:
    """A run of two calls."""
    run_id, workflow = f"run-{number}", f"workflow{number % 4}"
    nodes = (
        PlannedNode("rewrite", f"{run_id}/rewrite", (), "small", 16, 200),
        PlannedNode("answer", f"{run_id}/answer", ("rewrite",), "large", 64, 900, answers=True),
    )
    tenant = f"tenant{draw.randrange(5)}"
    return RunPlan(run_id, workflow, nodes, nodes[-1].key, Objective(ttft_s=1.0), tenant)


def fill(machine: Machine, count: int, now: float, past: int, draw: random.Random) -> None:
    """Replicas, runs that ended in the last fifteen minutes, and calls that run and wait."""
    for replica in replicas(count):
        machine.handle(ReplicaReady(replica), now - 900)
    for number in range(past):
        at = now - 900 + 900 * number / past
        play(machine, run_of(number, draw), at, draw)
    for number in range(past, past + int(0.8 * count * SLOTS) + 500):
        plan = run_of(number, draw)
        machine.handle(RunSubmitted(plan), now)
        machine.handle(CallRunnable(plan.nodes[number % 2].key), now)


def play(machine: Machine, plan: RunPlan, at: float, draw: random.Random) -> None:
    """A whole run, with nothing else under way."""
    machine.handle(RunSubmitted(plan), at)
    for node in plan.nodes:
        machine.handle(CallRunnable(node.key), at)
        took_s = draw.lognormvariate(-1.0, 0.6)
        if node.answers:
            machine.handle(FirstToken(node.key, 1, 0.3 * took_s), at + 0.3 * took_s)
        at += took_s
        machine.handle(AttemptEnded(node.key, 1, "finished", 200, 30, 0, 0.3 * took_s, took_s), at)
    machine.handle(RunEnded(plan.run_id, "finished"), at)
    machine.handle(RunDropped(plan.run_id), at)


async def cpu_ms(seconds: float) -> float:
    """CPU time of the thread of the event loop for each second, while others ask."""
    start, cpu = time.monotonic(), time.thread_time()
    await asyncio.sleep(seconds)
    return 1e3 * (time.thread_time() - cpu) / (time.monotonic() - start)


async def viewed(url: str, seconds: float, rounds: int) -> tuple[float, dict[str, list[float]]]:
    """CPU time of the loop for each second without viewers, and for each viewer what windows with some have more.

    Windows take turns, so that a machine that gets slower or faster meanwhile changes both.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", VIEWER, url, stdin=subprocess.PIPE)
    assert process.stdin is not None
    idle, more = [], {str(number): list[float]() for number in VIEWERS}
    try:
        for _ in range(rounds):
            for number in VIEWERS:
                idle.append(await cpu_ms(seconds))
                process.stdin.write(f"{number} {seconds + 1.5}\n".encode())
                await asyncio.sleep(1.0)  # the first answers are whole figures
                more[str(number)].append((await cpu_ms(seconds) - idle[-1]) / number)
                await asyncio.sleep(1.0)
    finally:
        process.kill()
        await process.wait()
    return statistics.median(idle), more


async def with_browser(chromium: str, url: str, seconds: float) -> float:
    """CPU time of the loop for each second, while a browser has the page open."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = await asyncio.create_subprocess_exec(
        chromium, *flags, f"{url}/fmware", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await asyncio.sleep(3.0)
        return await cpu_ms(seconds)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def asked(url: str, times: int = 7) -> dict[str, float]:
    """CPU time of this process and time on the clock for one answer, medians, both of server and client."""
    cpu, wall, size = [], [], 0
    for _ in range(times):
        start, begun = time.process_time(), time.perf_counter()
        size = len((await AsyncHTTPClient().fetch(url, request_timeout=60)).body)
        cpu.append(1e3 * (time.process_time() - start))
        wall.append(1e3 * (time.perf_counter() - begun))
        await asyncio.sleep(0.2)
    return {"cpu_ms": statistics.median(cpu), "wall_ms": statistics.median(wall), "kib": size / 1024}


async def measure(count: int, seconds: float, rounds: int, past: int, chromium: str | None) -> dict[str, Any]:
    """All figures at one number of replicas."""
    document = deployment("small", "large")
    async with fm.LocalModelCluster(
        document, processes=False, asynchronous=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        await asyncio.sleep(2.0)
        scheduler = cluster.scheduler
        router = scheduler.plugins["fmware-router"]
        url = f"http://127.0.0.1:{scheduler.http_server.port}"
        fill(router.machine, count, time.time(), past, random.Random(0))
        await cpu_ms(2.0)
        idle, more = await viewed(url, seconds, rounds)
        browser = await with_browser(chromium, url, 2 * seconds) - idle if chromium else None
        opened = await asked(f"{url}/fmware", 3)
        scrape = await asked(f"{url}/metrics")
        own = next(s for s in router.services if type(s).__name__ == "Observing")
        begun = time.process_time()
        samples = sum(len(family.samples) for family in own._series())
        made_ms = 1e3 * (time.process_time() - begun)
        return {
            "replicas": count,
            "calls": len(router.machine.runs.calls),
            "idle_ms_per_s": idle,
            "viewer_ms_per_s": {number: statistics.median(windows) for number, windows in more.items()},
            "viewer_windows_ms_per_s": more,
            "browser_ms_per_s": browser,
            "page_open": opened,
            "scrape": scrape,
            "series": samples,
            "series_cpu_ms": made_ms,
        }


def history_us(runs: int) -> dict[str, float]:
    """CPU time for each call with and without the history, best of five."""
    best = {}
    for name in ("without", "with"):
        times = []
        for _ in range(5):
            machine = Machine(create_policy("slack", random.Random(0).random), keep_runs=100)
            if name == "with":
                machine.observers.append(History(machine))
            for replica in replicas(16):
                machine.handle(ReplicaReady(replica), 0.0)
            draw = random.Random(1)
            plans = [run_of(number, draw) for number in range(runs)]
            start = time.process_time()
            for number, plan in enumerate(plans):
                play(machine, plan, float(number), draw)
            times.append((time.process_time() - start) / (2 * runs))
        best[name] = 1e6 * min(times)
    return best


def table(rows: list[dict[str, Any]], calls: dict[str, float]) -> str:
    """The figures for people."""
    lines = [
        "# What watching costs the scheduler",
        "",
        "CPU time of the scheduler's event loop. Bars: under 5 ms each second for each viewer, nothing while nobody",
        "looks, a scrape under 50 ms at 1,000 replicas.",
        "",
        "| replicas | calls | no viewer, ms/s | for one viewer, ms/s | for each of four | a browser, ms/s "
        "| opening the page, ms once | scrape of /metrics, ms CPU (on the clock) | of these our series |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        browser = "-" if row["browser_ms_per_s"] is None else f"{row['browser_ms_per_s']:.2f}"
        lines.append(
            f"| {row['replicas']:,} | {row['calls']:,} | {row['idle_ms_per_s']:.2f} "
            f"| {row['viewer_ms_per_s']['1']:.2f} | {row['viewer_ms_per_s']['4']:.2f} | {browser} "
            f"| {row['page_open']['cpu_ms']:.0f} | {row['scrape']['cpu_ms']:.1f} ({row['scrape']['wall_ms']:.1f}) "
            f"| {row['series_cpu_ms']:.1f} for {row['series']:,} |"
        )
    lines += [
        "",
        f"History for each call: {calls['with'] - calls['without']:.1f} us "
        f"({calls['with']:.1f} us with all of the machine, {calls['without']:.1f} us without the history).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each window")
    parser.add_argument(
        "--rounds", type=int, default=6, help="windows with one and with four viewers, each beside one without"
    )
    parser.add_argument("--runs", type=int, default=3000, help="that ended in the last fifteen minutes")
    parser.add_argument("--chromium", action="store_true", help="also with a browser that has the page open")
    options = parser.parse_args()
    chromium = (shutil.which("chromium") or shutil.which("google-chrome")) if options.chromium else None
    with dask.config.set(QUIET):
        rows = [
            asyncio.run(measure(n, options.seconds, options.rounds, options.runs, chromium)) for n in options.replicas
        ]
    calls = history_us(2000)
    shown = table(rows, calls)
    about = environment(seed=0, packages=("dask", "distributed", "bokeh", "tornado", "prometheus_client"))
    print(shown)
    print(json.dumps(rows, indent=1))
    write("dashboard_cost", {"rows": rows, "history_us_per_call": calls, **about}, shown)


if __name__ == "__main__":
    main()
