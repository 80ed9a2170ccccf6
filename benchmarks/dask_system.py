"""dask-fmware as a system under test: a `LocalModelCluster` with the evaluation's engines.

    python -m benchmarks.dask_system --socket SOCKET --policy slack

See `benchmarks.worker_protocol` for what it reads and writes.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import dask
from distributed import Client

import dask_fmware as fm
from benchmarks.card_engine import arguments
from benchmarks.trial import LABELS, SCENARIO, PlannedRun
from benchmarks.worker_protocol import reserve_stdout, serve
from dask_fmware.simulate.scenario import load_scenario

small, large = fm.Model("small"), fm.Model("large")


def pause(seconds: float, value: Any) -> Any:
    """Plain code that takes a while, as the scenario says, and hands on what the next node reads."""
    time.sleep(seconds)
    return value


@fm.task
def retrieve(query: str, answer: str) -> str:
    return pause(0.05, answer)


@fm.task
def check(fields: str, confirm: str) -> str:
    return pause(0.02, confirm)


@fm.task
def find(pitches: list[str]) -> list[str]:
    return pause(0.05, pitches)


@fm.task
def choose(pitched: list[str], recommend: str) -> str:
    return recommend


@fm.workflow
def rag(rewrite_text, answer_text):
    query = small("{text}", name="rewrite", text=rewrite_text, max_tokens=256)
    return large("{text}", name="answer", text=retrieve(query, answer_text), max_tokens=72)


@fm.workflow
def shopping(intent_text, extract_text, confirm_text, pitch_text, recommend_text, reply_text):
    label = small("{text}", name="intent", text=intent_text, choices=list(LABELS.values()), max_tokens=3)

    def order():
        fields = small("{text}", name="extract", text=extract_text, max_tokens=256)
        return large("{text}", name="confirm", text=check(fields, confirm_text), max_tokens=96)

    def search():
        pitched = fm.map(lambda text: small("{text}", name="pitch", text=text, max_tokens=96), find(pitch_text))
        return large("{text}", name="recommend", text=choose(pitched, recommend_text), max_tokens=96)

    def chat():
        return large("{text}", name="reply", text=reply_text, max_tokens=192)

    return fm.switch(label, {LABELS["order"]: order, LABELS["search"]: search, LABELS["chat"]: chat})


def bind(run: PlannedRun) -> Any:
    """Bind the prompts of a run; nodes of branches that it does not take get none."""
    made = rag if run.workflow == "rag" else shopping
    names = [item.name for item in made.workflow.inputs]
    nothing: dict[str, Any] = dict.fromkeys(names, "-") | ({"pitch_text": []} if "pitch_text" in names else {})
    given = {f"{node}_text": prompt for node, prompt in run.prompts.items()}
    return made(**(nothing | given)).options(slo=fm.SLO(ttft_s=run.ttft_slo_s))


def deployment(socket: str, policy: str) -> dict[str, Any]:
    """The paper's two cards, each with both models, one call at a time."""
    scenario = load_scenario(SCENARIO)
    models: dict[str, Any] = {}
    for model, spec in scenario.models.items():
        on = {}
        for card, hosting in spec.on.items():
            assert hosting.plain is not None
            on[card] = {
                "replicas": 1,
                "arguments": arguments(hosting.plain.model_dump(), socket=socket, card=card),
                "latency": hosting.latency.model_dump(),
            }
        models[model] = {"engine": "card", "slots": 1, "context_tokens": 8192, "longest_token_bytes": 4, "on": on}
    return {
        "accelerators": {card: {"cards": 1, "replicas_per_card": 2, "slots_per_card": 1} for card in scenario.cards},
        "models": models,
        "light_workers": {"count": 1, "threads": 32},
        "router": {"policy": policy},
    }


async def _main(socket: str, policy: str, out: int) -> None:
    began = time.perf_counter()
    with dask.config.set({"distributed.worker.preload": ["benchmarks.card_engine"]}):
        cluster = await fm.LocalModelCluster(deployment(socket, policy), dashboard_address=None, asynchronous=True)
    client = await Client(cluster, asynchronous=True, set_as_default=False)
    client.scheduler_comm.interval = 50e-6
    try:
        await fm.wait_ready(client)

        async def start(run: PlannedRun) -> AsyncIterator[str]:
            future = client.compute(bind(run))
            async for chunk in fm.stream(future):
                yield str(chunk)
            await future

        await serve(out, start, {"start_s": time.perf_counter() - began, "policy": policy})
    finally:
        await client.close()
        await cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True, help="of the card server")
    parser.add_argument("--policy", required=True)
    asked = parser.parse_args()
    asyncio.run(_main(asked.socket, asked.policy, reserve_stdout()))


if __name__ == "__main__":
    main()
