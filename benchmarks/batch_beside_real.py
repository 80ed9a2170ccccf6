"""Interactive runs beside a batch job that would fill the cluster, on a real one with emulated engines.

    python -m benchmarks.batch_beside_real --policies slack greedy

Schedulers, workers, streams and Dask tasks are real, only the cards are emulated: two models, each on a fast and a slow
card. Interactive runs arrive by a Poisson process at a share of what the cluster can do; the batch job is the command
`dask fmware evaluate` over a file of the same questions, a process of its own. For each policy: the job alone says what
the cluster can do (rows a second), before everything else and after it; the same arrivals without the job and with it.

Two figures: what the job costs interactive goodput in points (bar: 1), and which share of what interactive runs
leave it uses (bar: 85 %). Both kinds of run are equal work, so capacity is counted in runs. What is idle is the
difference of two rates, so an error in the first is magnified: both measurements of it are told, and shares by each.
Where slots stood empty, the recorded events say whether calls of the job were held back then (by the policy) or none
was there (the driver, or a hand-over). `benchmarks.batch_beside --scenarios emulated4` plays the same in virtual time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from distributed import Client

import dask_fmware as fm
from benchmarks.evaluation import write_questions
from benchmarks.support.environment import RESULTS, environment, write
from benchmarks.support.slot_time import read_slot_times
from dask_fmware.evaluation.output.journal import read_journal
from dask_fmware.evaluation.output.shards import shard_numbers, shard_path

FAST = {"w0": 0.030, "w1": 1e-4, "w2": 4e-4, "w3": 0.0}  # seconds: a step, a prompt token, a sequence of the batch
SLOW = {name: 2.2 * value for name, value in FAST.items()}
LENGTHS = [8, 12, 16, 24, 32]
SLOTS = 8
SLO_S = 1.5  # to the first token; an idle cluster takes 0.6 s
SETTLE_S = 8.0  # from the first recorded row to the window that is measured
LATE_S = 0.3  # a window in which the submitting process was later than that says more of the machine: made again
TRIES = 3

small, large = fm.Model("small"), fm.Model("large")


@fm.workflow(slo=fm.SLO(ttft_s=SLO_S))
def chain(question):  # type: ignore[no-untyped-def]
    """A call that rewrites, and one that answers."""
    first = small("Rewrite {question}", question=question, max_tokens=16, name="rewrite")
    return large("Answer {question} with {first}", question=question, first=first, max_tokens=32, name="answer")


def deployment(policy: str, log: Path) -> dict[str, Any]:
    """Two models on a fast and a slow card, one replica each."""

    def on(law: dict[str, float]) -> dict[str, Any]:
        latency = {"first_token_s": law["w0"], "prompt_token_s": law["w1"], "output_token_s": law["w0"] + law["w2"]}
        return {"replicas": 1, "slots": SLOTS, "latency": latency, "arguments": {"law": law}}

    arguments = {"output_tokens": LENGTHS, "stream_interval_s": 0.3, "prefix_cache_tokens": 0}
    model = {"engine": "emulated", "arguments": arguments, "on": {"fast": on(FAST), "slow": on(SLOW)}}
    return {
        "accelerators": {"fast": {"cards": 2}, "slow": {"cards": 2}},
        "models": {"small": model, "large": model},
        "router": {"policy": policy, "record": str(log)},
    }


@contextmanager
def batch_job(address: str, questions: Path, output: Path) -> Iterator[None]:
    """The command of a user, interrupted as a user would."""
    words = ["evaluate", "benchmarks.batch_beside_real:chain", str(questions), "-o", str(output), "--address", address]
    log = output.with_suffix(".log")
    with open(log, "wb") as file:
        job = subprocess.Popen([sys.executable, "-m", "dask", "fmware", *words, "--json"], stdout=file, stderr=file)
        try:
            while not any(output.glob("_journal-*")) or not rows_done(output, 0.0, time.time()):
                if job.poll() is not None:
                    raise SystemExit(log.read_text()[-3000:])
                time.sleep(0.2)
            time.sleep(SETTLE_S)
            yield
        finally:
            job.send_signal(signal.SIGINT)
            try:
                job.wait(30)
            except subprocess.TimeoutExpired:
                job.kill()


def rows_done(output: Path, begin: float, end: float) -> int:
    """Rows that ended in a window, shards and journal."""
    from pyarrow import parquet

    times = [row["finished_at"] for path in output.glob("_journal-*") for row in read_journal(path)]
    for number in shard_numbers(output):
        times += parquet.read_table(shard_path(output, number), columns=["finished_at"])["finished_at"].to_pylist()
    return sum(begin <= at < end for at in times)


def interactive(client: Client, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Let runs arrive for some time; what came of them."""
    draws = random.Random(seed)
    futures: list[Any] = []
    late_s: list[float] = []
    begin = time.time()
    due = begin
    while (due := due + draws.expovariate(rate)) < begin + seconds:
        time.sleep(max(due - time.time(), 0.0))
        late_s.append(time.time() - due)
        futures.append(client.compute(chain(question=f"{len(futures)} " * draws.randint(2, 40))))
    time.sleep(max(begin + seconds - time.time(), 0.0))
    end = time.time()
    in_window = sum(future.done() for future in futures)
    client.gather(futures, errors="skip")
    found = fm.reports(client, futures)
    first = sorted(report.data.first_token_at for report in found if report.data.first_token_at is not None)
    return {
        "begin": begin,
        "end": end,
        "runs": len(futures),
        "done_in_window": in_window,
        "goodput": sum(bool(report.met) for report in found) / max(len(futures), 1),
        "ttft_p50_s": first[len(first) // 2],
        "ttft_p95_s": first[int(0.95 * (len(first) - 1))],
        "client_late_max_s": max(late_s),
    }


def job_alone(address: str, questions: Path, output: Path, seconds: float) -> float:
    """Rows a second of a job that has the cluster to itself."""
    with batch_job(address, questions, output):
        begin = time.time()
        time.sleep(seconds)
        end = time.time()
    return rows_done(output, begin, end) / (end - begin)


def measure(policy: str, loads: list[float], seconds: float, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Cells of one policy on one cluster."""
    questions, log = folder / "questions.csv", folder / f"{policy}.jsonl"
    write_questions(questions, 100_000)
    cells = []
    with (
        fm.LocalModelCluster(deployment(policy, log), dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        fm.wait_ready(client)
        address = cluster.scheduler_address
        interactive(client, 4.0, 8.0, seed + 7)  # what the router learns of lengths, it knows in all cells
        full = [job_alone(address, questions, folder / f"{policy}-before.parquet", seconds / 2)]
        for load in loads:
            for trial in range(TRIES):
                alone = interactive(client, load * full[0], seconds, seed)
                output = folder / f"{policy}-{load:g}-{trial}.parquet"
                with batch_job(address, questions, output):
                    beside = interactive(client, load * full[0], seconds, seed)
                if max(alone["client_late_max_s"], beside["client_late_max_s"]) <= LATE_S:
                    break
                print(f"{policy} at {load:g}: the machine stalled", file=sys.stderr, flush=True)
            took = beside["end"] - beside["begin"]
            cells.append(
                {
                    "policy": policy,
                    "load": load,
                    "alone": alone,
                    "beside": beside,
                    "batch_rows_per_s": rows_done(output, beside["begin"], beside["end"]) / took,
                    "interactive_per_s": beside["done_in_window"] / took,
                    "points_lost": 100 * (alone["goodput"] - beside["goodput"]),
                    "stalled": trial,  # windows that were made again
                    "load_average": os.getloadavg()[0],
                }
            )
        full.append(job_alone(address, questions, folder / f"{policy}-after.parquet", seconds / 2))
    windows = [(cell["beside"]["begin"], cell["beside"]["end"]) for cell in cells]
    for cell, slots in zip(cells, read_slot_times(log, windows), strict=True):
        idle_used = [cell["batch_rows_per_s"] / max(f - cell["interactive_per_s"], 1e-9) for f in (*full, mean(full))]
        cell.update(full_runs_per_s=full, idle_used=idle_used[2], idle_used_by=idle_used[:2])
        cell.update(slots=slots.shares, slots_by_model=slots.shares_by_model)
    return cells


HEAD = (
    "| policy | load | job alone, rows/s, before and after | interactive goodput alone | beside the job | points lost "
    "| TTFT p95 alone | beside | batch, rows/s | idle capacity used | by either | slots: interactive, job, empty "
    "beside calls of the job that wait, empty without | of taken slots, on the way |\n" + "|---" * 13 + "|"
)


def line(cell: dict[str, Any]) -> str:
    """A row of the table."""
    alone, beside, slots = cell["alone"], cell["beside"], cell.get("slots")
    full = ", ".join(f"{rate:.1f}" for rate in cell["full_runs_per_s"])
    either = ", ".join(f"{share:.0%}" for share in cell["idle_used_by"])
    spent, way = "-", "-"  # not counted formerly
    if slots is not None:
        spent = ", ".join(f"{slots[kind]:.0%}" for kind in ("interactive", "job", "held", "none"))
        way = f"{slots['way'] / max(slots['interactive'] + slots['job'], 1e-9):.0%}"
    return (
        f"| `{cell['policy']}` | {cell['load']:g} | {full} | {alone['goodput']:.3f} "
        f"| {beside['goodput']:.3f} | {cell['points_lost']:.1f} | {alone['ttft_p95_s']:.2f} s "
        f"| {beside['ttft_p95_s']:.2f} s | {cell['batch_rows_per_s']:.1f} | {cell['idle_used']:.0%} "
        f"| {either} | {spent} | {way} |"
    )


def render(cells: list[dict[str, Any]], seconds: float, cores: int) -> str:
    """The page of results."""
    loads = [cell["load_average"] for cell in cells]
    text = [
        "# Interactive runs beside a batch job, on a real cluster with emulated engines",
        "",
        f"Windows of {seconds:g} s, {cores} cores; load average of the last minute of each, its own work included: "
        f"{min(loads):.1f} to {max(loads):.1f}. Bars: at most 1 point lost, 85 % used.",
        "",
        HEAD,
        *map(line, cells),
        "",
        "What the job does alone is measured before and after, for half of a window each; what is idle is the mean",
        "of the two less what interactive runs get done. *By either*: if only the first or the second counted.",
    ]
    if any("slots" not in cell for cell in cells):
        text += ["Where slots are not told, the job alone was measured before only, at an earlier time."]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["slack", "greedy"])
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6])
    parser.add_argument("--seconds", type=float, default=40.0, help="of each window")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="windows of 10 s; writes nothing")
    chosen = parser.parse_args()
    seconds = 10.0 if chosen.quick else chosen.seconds
    path = RESULTS / "batch_beside_real.json"
    before = json.loads(path.read_text())["cells"] if path.exists() and not chosen.quick else []
    now = {(policy, load) for policy in chosen.policies for load in chosen.loads}  # the others stay as they are
    cells = [cell for cell in before if (cell["policy"], cell["load"]) not in now]
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for policy in chosen.policies:
            for cell in measure(policy, chosen.loads, seconds, chosen.seed, Path(folder)):
                cells.append(cell)
                print(line(cell), flush=True)
    cells.sort(key=lambda cell: (cell["policy"] != "slack", cell["policy"], cell["load"]))
    if not chosen.quick:
        about = environment(seed=chosen.seed)
        write("batch_beside_real", {"environment": about, "cells": cells}, render(cells, seconds, about["cores"]))


if __name__ == "__main__":
    main()
