"""The evaluation's workflows as Ray Serve has them: deployments composed by handles, answers streamed.

Each model is one deployment with a replica on each of two nodes, the nodes' custom resources standing for cards.
Nothing is tuned that Ray's documentation does not offer, and every default is Ray's but where an option says else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import ray
from ray import serve

from benchmarks.support.card_engine import CardEngine, arguments
from benchmarks.support.trial import LABELS
from dask_fmware.model.engine import Request

__all__ = ["CARDS", "Model", "Workflows", "application"]

CARDS = ("A100", "A40")


def own_card() -> str:
    """Card of the node that this replica runs on."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return next(card for card in CARDS if card in node["Resources"])


@serve.deployment
class Model:
    """One model; each replica has the engine of its node's card."""

    def __init__(self, laws: dict[str, dict[str, float]], socket: str | None, time_scale: float) -> None:
        card = own_card()
        self.engine = CardEngine(**arguments(laws[card], socket=socket, card=card, time_scale=time_scale))
        self._started: asyncio.Task[None] | None = None

    async def _ready(self) -> None:
        if self._started is None:
            self._started = asyncio.create_task(self.engine.start())
        await asyncio.shield(self._started)

    async def stream(self, prompt: str, max_tokens: int, choices: tuple[str, ...] | None = None) -> AsyncIterator[str]:
        """Answer piece by piece."""
        await self._ready()
        request = Request(uuid.uuid4().hex, max_tokens, prompt, choices=choices)
        async with aclosing(self.engine.generate(request)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text

    async def complete(self, prompt: str, max_tokens: int, choices: tuple[str, ...] | None = None) -> str:
        """Answer as a whole."""
        return "".join([piece async for piece in self.stream(prompt, max_tokens, choices)])


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Workflows:
    """The ingress: both workflows over the two models."""

    def __init__(self, small: Any, large: Any, prefer_local: bool | None) -> None:
        if prefer_local is not None:
            small._init(_prefer_local_routing=prefer_local)
            large._init(_prefer_local_routing=prefer_local)
        self.small = small.options(method_name="complete")
        self.large = large.options(method_name="stream", stream=True)

    async def rag(self, prompts: dict[str, Any], pauses_s: dict[str, float]) -> AsyncIterator[str]:
        """Rewrite, retrieve, answer."""
        await self.small.remote(prompts["rewrite"], 256)
        await asyncio.sleep(pauses_s["retrieve"])
        async for piece in self.large.remote(prompts["answer"], 72):
            yield piece

    async def shopping(self, prompts: dict[str, Any], pauses_s: dict[str, float]) -> AsyncIterator[str]:
        """Find out what is wanted, then one of three branches."""
        label = await self.small.remote(prompts["intent"], 3, tuple(LABELS.values()))
        if label == LABELS["order"]:
            await self.small.remote(prompts["extract"], 256)
            await asyncio.sleep(pauses_s["check"])
            answer = self.large.remote(prompts["confirm"], 96)
        elif label == LABELS["search"]:
            await asyncio.sleep(pauses_s["find"])
            await asyncio.gather(*(self.small.remote(prompt, 96) for prompt in prompts["pitch"]))
            answer = self.large.remote(prompts["recommend"], 96)
        else:
            answer = self.large.remote(prompts["reply"], 192)
        async for piece in answer:
            yield piece


def application(
    laws: dict[str, dict[str, dict[str, float]]],
    socket: str | None,
    *,
    max_ongoing: int | None = None,
    max_queued: int | None = None,
    prefer_local: bool | None = None,
    time_scale: float = 1.0,
) -> Any:
    """Return the workflows with their two models, to be given to `serve.run`."""
    options: dict[str, Any] = {
        "num_replicas": len(CARDS),
        "max_replicas_per_node": 1,
        "ray_actor_options": {"num_cpus": 0, "resources": {"card": 0.01}},
    }
    if max_ongoing is not None:
        options["max_ongoing_requests"] = max_ongoing
    if max_queued is not None:
        options["max_queued_requests"] = max_queued
    models = [Model.options(name=name, **options).bind(laws[name], socket, time_scale) for name in ("small", "large")]
    return Workflows.bind(*models, prefer_local)
