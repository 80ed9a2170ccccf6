"""dask-fmware as a system under test: a `LocalModelCluster` with the evaluation's engines.

    python -m benchmarks.support.dask_system --socket SOCKET --policy slack

See `benchmarks.support.worker_protocol` for what it reads and writes.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import dask
from distributed import Client

import dask_fmware as fm
from benchmarks.support.card_engine import arguments
from benchmarks.support.trial import LABELS, SCENARIO, PlannedRun
from benchmarks.support.worker_protocol import reserve_stdout, serve
from dask_fmware.model.messages import STREAM_INTERVAL_S
from dask_fmware.simulation.scenario import load_scenario

small, large = fm.Model("small"), fm.Model("large")


def _pause(seconds: float, value: Any) -> Any:
    """Plain code that takes a while and hands on what the next node reads."""
    time.sleep(seconds)
    return value


@fm.task
def retrieve(query: str, answer: str, seconds: float) -> str:
    return _pause(seconds, answer)


@fm.task
def check(fields: str, confirm: str, seconds: float) -> str:
    return _pause(seconds, confirm)


@fm.task
def find(pitches: list[str], seconds: float) -> list[str]:
    return _pause(seconds, pitches)


@fm.task
def choose(pitched: list[str], recommend: str) -> str:
    return recommend


@fm.workflow
def rag(rewrite_text, answer_text, retrieve_s):
    query = small("{text}", name="rewrite", text=rewrite_text, max_tokens=256)
    return large("{text}", name="answer", text=retrieve(query, answer_text, retrieve_s), max_tokens=72)


@fm.workflow
def shopping(intent_text, extract_text, confirm_text, pitch_text, recommend_text, reply_text, check_s, find_s):
    label = small("{text}", name="intent", text=intent_text, choices=list(LABELS.values()), max_tokens=3)

    def order():
        fields = small("{text}", name="extract", text=extract_text, max_tokens=256)
        return large("{text}", name="confirm", text=check(fields, confirm_text, check_s), max_tokens=96)

    def search():
        found = find(pitch_text, find_s)
        pitched = fm.map(lambda text: small("{text}", name="pitch", text=text, max_tokens=96), found)
        return large("{text}", name="recommend", text=choose(pitched, recommend_text), max_tokens=96)

    def chat():
        return large("{text}", name="reply", text=reply_text, max_tokens=192)

    return fm.switch(label, {LABELS["order"]: order, LABELS["search"]: search, LABELS["chat"]: chat})


def bind(run: PlannedRun) -> Any:
    """Bind the prompts of a run; nodes of branches that it does not take get none."""
    made = rag if run.workflow == "rag" else shopping
    names = [item.name for item in made.workflow.inputs]
    nothing: dict[str, Any] = dict.fromkeys(names, "-") | ({"pitch_text": []} if "pitch_text" in names else {})
    given: dict[str, Any] = {f"{node}_text": prompt for node, prompt in run.prompts.items()}
    given |= {f"{node}_s": seconds for node, seconds in run.pauses_s.items()}
    return made(**(nothing | given)).options(slo=fm.SLO(ttft_s=run.ttft_slo_s))


def deployment(socket: str, policy: str, time_scale: float = 1.0) -> dict[str, Any]:
    """The paper's two cards, each with both models, one call at a time."""
    scenario = load_scenario(SCENARIO)
    models: dict[str, Any] = {}
    for model, spec in scenario.models.items():
        on = {}
        for card, hosting in spec.on.items():
            assert hosting.plain is not None
            on[card] = {
                "replicas": 1,
                "arguments": arguments(hosting.plain.model_dump(), socket=socket, card=card, time_scale=time_scale),
                "latency": {name: time_scale * value for name, value in hosting.latency.model_dump().items()},
            }
        models[model] = {"engine": "card", "slots": 1, "context_tokens": 8192, "longest_token_bytes": 4, "on": on}
    return {
        "accelerators": {card: {"cards": 1, "replicas_per_card": 2, "slots_per_card": 1} for card in scenario.cards},
        "models": models,
        "light_workers": {"count": 1, "threads": 32},
        "router": {"policy": policy},
    }


async def start(client: Client, run: PlannedRun) -> AsyncIterator[str]:
    """Submit a run and stream its answer."""
    future = client.compute(bind(run))
    async for chunk in fm.stream(future):
        yield str(chunk)
    await future


async def _main(asked: argparse.Namespace, out: int) -> None:
    began = time.perf_counter()
    document = deployment(asked.socket, asked.policy, asked.time_scale)
    with dask.config.set({"distributed.worker.preload": ["benchmarks.support.card_engine"]}):
        cluster = await fm.LocalModelCluster(document, dashboard_address=None, asynchronous=True)
    client = await Client(cluster, asynchronous=True, set_as_default=False)
    client.scheduler_comm.interval = STREAM_INTERVAL_S
    try:
        await fm.wait_ready(client)
        ready = {"start_s": time.perf_counter() - began, "policy": asked.policy}
        await serve(out, partial(start, client), ready)
    finally:
        await client.close()
        await cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True, help="of the card server")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--time-scale", type=float, default=1.0, help="seconds for one second of the scenario")
    asked = parser.parse_args()
    asyncio.run(_main(asked, reserve_stdout()))


if __name__ == "__main__":
    main()
