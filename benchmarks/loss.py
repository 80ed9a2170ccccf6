"""One of four replicas is lost at half of saturation: goodput in the minute after, beside three replicas undisturbed.

    python -m benchmarks.loss [--seeds 30]       in the simulator
    python -m benchmarks.loss --real [--policy]  once with emulated engines in real processes, one killed by SIGKILL
    python -m benchmarks.loss [--real] --table   plays nothing: the table from what is kept

Both clusters get the same runs. Counted are the runs whose objective ends in the minute after the loss: those that are
under way on the lost replica, too. The replica does not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import dask
from distributed import Client
from rich.progress import track

import dask_fmware as fm
from benchmarks.support.environment import TABLE, environment, kept, write
from benchmarks.support.trial import planned
from benchmarks.support.within import within
from dask_fmware.simulation.report import interval
from dask_fmware.simulation.run import saturation
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Failure, Scenario, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SCENARIO = load_scenario(Path(__file__).parent / "scenarios" / "loss.yaml")
POLICIES = ("greedy", "slack", "target", "least_outstanding", "power_of_two", "round_robin")
LOAD, LOST_AT_S, MINUTE_S = 0.5, 30.0, 60.0
BAR = -0.02
FIRST_SEED = 1000


def counted(run: SampledRun) -> bool:
    """Whether a run belongs to the minute after the loss."""
    return LOST_AT_S < run.deadline <= LOST_AT_S + MINUTE_S


def three() -> Scenario:
    """The cluster that never had the fourth replica."""
    return SCENARIO.model_copy(update={"cards": {"card": SCENARIO.cards["card"].model_copy(update={"count": 3})}})


def simulated(policy: str, seed: int, rate: float) -> tuple[float, float]:
    """Goodput of the minute with a loss, and on three replicas."""
    lost = SCENARIO.model_copy(update={"failures": (Failure(card="card-1", at_s=LOST_AT_S),)})
    found = []
    for scenario in (lost, three()):
        runs = Workload(SCENARIO, seed).runs(rate=rate)
        outcomes = [o for o in World(scenario, policy, runs, seed).play() if counted(o.run)]
        found.append(sum(outcome.met for outcome in outcomes) / len(outcomes))
    return found[0], found[1]


# -- real processes ----------------------------------------------------------------------------------

model = fm.Model("m")


@fm.task
def retrieve(query: str, answer_text: str, seconds: float) -> str:
    time.sleep(seconds)
    return answer_text


@fm.workflow
def rag(rewrite_text, answer_text, retrieve_s):  # type: ignore[no-untyped-def]
    query = model("{text}", name="rewrite", text=rewrite_text, max_tokens=48)
    return model("{text}", name="answer", text=retrieve(query, answer_text, retrieve_s), max_tokens=200)


def deployment(cards: int, policy: str) -> dict[str, Any]:
    """So many cards of the scenario."""
    hosting = SCENARIO.models["m"].on["card"]
    assert hosting.plain is not None
    law = hosting.plain.model_dump()
    arguments: dict[str, Any] = {"law": law, "kv_tokens": hosting.kv_tokens, "prefix_cache_tokens": 0}
    placement = {"replicas": cards, "latency": hosting.latency.model_dump()}
    served = {"engine": "card", "slots": hosting.slots, "longest_token_bytes": 4, "arguments": arguments}
    return {
        "accelerators": {"card": {"cards": cards}},
        "models": {"m": {**served, "on": {"card": placement}}},
        "light_workers": {"count": 1, "threads": 16},
        "router": {"policy": policy},
    }


async def played(cards: int, policy: str, seed: int, rate: float, lost: str | None) -> float:
    """Goodput of the minute on a real cluster, of which the worker `lost` is killed."""
    runs = Workload(SCENARIO, seed).runs(rate=rate)
    met: dict[str, bool] = {}

    async def one(run: SampledRun, start: float) -> None:
        texts = planned(SCENARIO, run, "")
        prompts = {f"{node}_text": prompt for node, prompt in texts.prompts.items()}
        await asyncio.sleep(start + run.arrival - time.monotonic())
        bound = rag(**prompts, retrieve_s=texts.pauses_s["retrieve"])
        future = client.compute(bound.options(slo=fm.SLO(ttft_s=run.deadline - run.arrival)))
        await future
        met[run.run_id] = (await fm.report(future)).data.met is True

    with dask.config.set({"distributed.worker.preload": ["benchmarks.support.card_engine"]}):
        cluster = await fm.LocalModelCluster(deployment(cards, policy), dashboard_address=None, asynchronous=True)
    client = await Client(cluster, asynchronous=True, set_as_default=False)
    try:
        await fm.wait_ready(client)
        start = time.monotonic() + 1.0
        playing = asyncio.gather(*(one(run, start) for run in runs))
        if lost is not None:
            await asyncio.sleep(start + LOST_AT_S - time.monotonic())
            nanny = cluster.workers[lost]
            nanny.auto_restart = False  # the card is gone for good
            os.kill(nanny.pid, signal.SIGKILL)
        await playing
    finally:
        await client.close()
        await cluster.close()
    found = [met[run.run_id] for run in runs if counted(run)]
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--real", action="store_true", help="real processes, one seed")
    parser.add_argument("--policy", choices=POLICIES, nargs="+", help="all of them, with --real slack")
    parser.add_argument("--table", action="store_true", help=TABLE)
    asked = parser.parse_args()
    name, rate = "loss_real" if asked.real else "loss", LOAD * saturation(SCENARIO)
    raw = kept(name) if asked.table else {"environment": environment(seed=FIRST_SEED), "rows": measured(asked, rate)}
    text = table(raw, rate)
    print(text)
    write(name, raw, text)


def measured(asked: argparse.Namespace, rate: float) -> list[dict[str, Any]]:
    """What came of each policy: the two goodputs of each seed."""
    rows: list[dict[str, Any]] = []
    for policy in track(asked.policy or (["slack"] if asked.real else POLICIES), "policies"):
        if asked.real:
            found = [
                (
                    asyncio.run(played(4, policy, FIRST_SEED, rate, lost="m-card-1")),
                    asyncio.run(played(3, policy, FIRST_SEED, rate, lost=None)),
                )
            ]
        else:
            found = [simulated(policy, seed, rate) for seed in range(FIRST_SEED, FIRST_SEED + asked.seeds)]
        rows.append({"policy": policy, "goodput": found})
    return rows


def table(raw: dict[str, Any], rate: float) -> str:
    """Markdown of what is kept; the differences are added to it."""
    lines = [
        "# A replica is lost",
        "",
        f"`{raw['environment']['command']}`; {rate:.1f} runs a second, half of what four replicas serve;",
        f"one is lost after {LOST_AT_S:g} s and does not come back. Goodput of the next minute, same runs.",
        "",
        "| policy | one of four lost | three, undisturbed | difference, 95 % | bar: at least -2 points |",
        "|---|---|---|---|---|",
    ]
    for row in raw["rows"]:
        found = row["goodput"]
        apart = interval([one - other for one, other in found])
        around = within(100 * apart.low, 100 * apart.high, "+.2f", found)
        row["apart"] = asdict(apart)
        lines.append(
            f"| {row['policy']} | {fmean(one for one, _ in found):.4f} | {fmean(other for _, other in found):.4f} | "
            f"{100 * apart.mean:+.2f}{around} points | {'held' if apart.mean >= BAR else '**missed**'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
