"""A step of load on a real cluster: replicas start and stop as worker processes while runs go on.

    python -m benchmarks.provisioning_step --seeds 4          # 1x, 4x, 1x, then nothing
    python -m benchmarks.provisioning_step --constant 600     # ten minutes of constant load

A `LocalModelCluster` with emulated engines, each a process of its own that loads for `--load` seconds; runs arrive by a
Poisson process that a seed draws. Every decision is recorded, and the record is held against the contract of the
runtime: no run is lost, none has two results. `95% in time from` is how long after the step it took until that share
of all later runs of the high load met their SLO; `load time` is from the first start that the step caused until that
replica served, with the start of its process.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter, time
from typing import Any

from distributed import Client

import dask_fmware as fm
from benchmarks.support.environment import environment, write
from dask_fmware.cluster.local import LocalModelCluster
from dask_fmware.runtime.contract import check_log
from dask_fmware.simulation.replay import open_log

SLO_S = 1.0
CARDS = 8
RECOVERED = 0.95  # of the runs, as the provisioner is asked for
FEWEST = 20  # runs that say anything
m = fm.Model("m")


@fm.workflow(slo=fm.SLO(ttft_s=SLO_S))
def chat(question: str) -> Any:
    return m("{question}", question=question, max_tokens=40)


def deployment(load_s: float, record: Path) -> dict[str, Any]:
    """One model whose replicas serve some four calls a second each, on eight cards; one replica at the start."""
    law = {"w0": 0.05, "w1": 2e-4, "w2": 1e-4}
    return {
        "accelerators": {"card": {"cards": CARDS, "price_per_hour": 1.0}},
        "models": {
            "m": {
                "engine": "emulated", "slots": 8, "context_tokens": 2048,
                "arguments": {"law": law, "load_s": load_s},
                "on": {"card": {"replicas": 1, "latency": {"first_token_s": 0.05, "output_token_s": 0.05}}},
            }
        },
        "router": {"record": str(record)},
    }  # fmt: skip


def arrivals(phases: list[tuple[float, float]], seed: int) -> list[float]:
    """Times of arrival: phases are (seconds, runs a second)."""
    draw, found, begin = random.Random(seed), [], 0.0
    for length_s, rate in phases:
        at = begin
        while rate and (at := at + draw.expovariate(rate)) < begin + length_s:
            found.append(at)
        begin += length_s
    return found


async def counts(client: Client) -> dict[str, int]:
    """Desired, requested and ready replicas."""
    kinds = ((await fm.status(client))["provisioning"] or {"replicas": []})["replicas"]
    return {name: sum(kind[name] for kind in kinds) for name in ("desired", "requested", "ready")}


async def watch(client: Client, begin: float, seen: list[dict[str, Any]]) -> None:
    """Note the three numbers twice a second."""
    while True:
        seen.append({"at": round(perf_counter() - begin, 1), **await counts(client)})
        await asyncio.sleep(0.5)


async def play(
    asked: argparse.Namespace, phases: list[tuple[float, float]], seed: int, record: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return runs, the three numbers over time, and the steps of the provisioner."""
    seen: list[dict[str, Any]] = []
    cluster = LocalModelCluster(deployment(asked.load, record), asynchronous=True, dashboard_address=None)
    async with cluster, Client(cluster, asynchronous=True) as client:
        await fm.wait_ready(client)
        cluster.adapt(fm.Provisioning(idle_s=asked.idle, interval_s=0.5, load_s=asked.load, boot_s=asked.boot))
        while (await counts(client))["ready"] != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        begin, began_at = perf_counter(), time()
        watcher = asyncio.create_task(watch(client, begin, seen))
        runs: list[tuple[float, Any]] = []
        for at in arrivals(phases, seed):
            await asyncio.sleep(max(0.0, begin + at - perf_counter()))
            runs.append((perf_counter() - begin, client.compute(chat(question=f"question {len(runs)}"))))
        found = []
        for at, future in runs:
            await asyncio.wait_for(future, 300)
            report = (await fm.report(future)).data
            found.append({"at": at, "met": bool(report.met), "state": report.state})
        end = sum(length for length, _ in phases)
        await asyncio.sleep(max(0.0, begin + end - perf_counter()))
        steps = (await fm.status(client))["provisioning"]["steps"]
        watcher.cancel()
        del runs
        return found, seen, [{**step, "at": step["at"] - began_at} for step in steps]


def first(seen: list[dict[str, Any]], name: str, since: float, above: int) -> float | None:
    """When a number was first above another."""
    return next((one["at"] for one in seen if one["at"] >= since and one[name] > above), None)


def changes(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The three numbers where one of them is another."""
    names = ("desired", "requested", "ready")
    return [b for a, b in pairwise([{}, *seen]) if any(a.get(name) != b[name] for name in names)]


def recovered(high: list[dict[str, Any]], up: float) -> float | None:
    """Seconds after a step, from which on the wanted share of the runs until the load falls is in time."""
    for i, run in enumerate(high):
        rest = high[i:]
        if len(rest) >= FEWEST and sum(one["met"] for one in rest) >= RECOVERED * len(rest):
            return round(run["at"] - up, 1)
    return None


def figures_of(
    asked: argparse.Namespace,
    runs: list[dict[str, Any]],
    seen: list[dict[str, Any]],
    steps: list[dict[str, Any]],
    breaches: list[str],
) -> dict[str, Any]:
    """What one seed showed."""
    up, down = asked.phase, 2 * asked.phase
    figures: dict[str, Any] = {
        "runs": len(runs), "finished": sum(run["state"] == "finished" for run in runs),
        "goodput": round(sum(run["met"] for run in runs) / len(runs), 3), "breaches": breaches,
        "steps": len(steps), "most_ready": max(one["ready"] for one in seen), "ready at the end": seen[-1]["ready"],
    }  # fmt: skip
    if asked.constant is not None:
        settled = [step for step in steps if 2 * asked.idle + 30 < step["at"] < asked.constant]
        return figures | {"starts and stops once settled": sum(s["step"] in ("start", "stop") for s in settled)}
    high = [run for run in runs if up <= run["at"] < down]
    late = [run["at"] for run in high if not run["met"]]
    before = max(one["requested"] for one in seen if one["at"] < up)
    asked_at, ready_at = first(seen, "requested", up, before), first(seen, "ready", up, before)
    return figures | {
        "asked for after, s": round(asked_at - up, 1) if asked_at is not None else None,
        "load time, s": round(ready_at - asked_at, 1) if asked_at is not None and ready_at is not None else None,
        f"{RECOVERED:.0%} in time from, s": recovered(high, up),
        "last late run, s": round(max(late, default=up) - up, 1),
        "stopped after the load fell, s": [round(s["at"] - down, 1) for s in steps if s["step"] == "stop"],
    }


def page(asked: argparse.Namespace, phases: list[tuple[float, float]], played: list[dict[str, Any]]) -> str:
    """All seeds side by side, and the steps of the last."""
    title = "Constant load" if asked.constant is not None else "A step of load"
    names = list(played[0]["figures"])
    return "\n".join([
        f"# {title} on a real cluster", "",
        f"Phases (seconds, runs/s): {phases}; engines load {asked.load:g} s, idle period {asked.idle:g} s, SLO "
        f"{SLO_S:g} s to the first token.", "",
        f"| seed | {' | '.join(str(one['seed']) for one in played)} |", f"|---|{'---|' * len(played)}",
        *(f"| {name} | {' | '.join(str(one['figures'][name]) for one in played)} |" for name in names), "",
        f"Steps of seed {played[-1]['seed']}:", "", "| at | step | replica | reason |", "|---|---|---|---|",
        *(
            f"| {s['at']:.1f} | {s['step']} | {s['replica'] or s['accelerator']} | {s['reason']} |"
            for s in played[-1]["steps"]
        ),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=3.0, help="runs a second before the step")
    parser.add_argument("--times", type=float, default=4.0)
    parser.add_argument("--phase", type=float, default=30.0, help="seconds of each load")
    parser.add_argument("--idle", type=float, default=10.0, help="idle period of the provisioner, seconds")
    parser.add_argument("--load", type=float, default=5.0, help="seconds in which an engine loads")
    parser.add_argument("--boot", type=float, default=3.0, help="seconds in which a process starts, as told beforehand")
    parser.add_argument("--constant", type=float, help="seconds of constant load, instead of a step")
    parser.add_argument("--seed", type=int, default=1000, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="played one after the other")
    asked = parser.parse_args()
    if asked.constant is not None:
        phases = [(asked.constant, asked.times * asked.rate / 2)]
    else:
        rest_s = asked.phase + 2 * asked.idle
        phases = [(asked.phase, asked.rate), (asked.phase, asked.times * asked.rate), (rest_s, asked.rate)]
        phases.append((4 * asked.idle, 0.0))
    played: list[dict[str, Any]] = []
    for seed in range(asked.seed, asked.seed + asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "run.jsonl.gz"
            runs, seen, steps = asyncio.run(play(asked, phases, seed, record))
            with open_log(record) as (head, lines):
                contract = check_log(head, lines)
        figures = figures_of(asked, runs, seen, steps, [str(b) for b in contract.breaches])
        late = [round(run["at"], 1) for run in runs if not run["met"]]
        played.append({"seed": seed, "figures": figures, "seen": changes(seen), "steps": steps, "late": late})
        print(figures, flush=True)
        name = "provisioning_constant" if asked.constant is not None else "provisioning_step"
        write(name, {"environment": environment(seed=asked.seed), "played": played}, page(asked, phases, played))


if __name__ == "__main__":
    main()
