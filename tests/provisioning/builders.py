"""Small inventories and observations, and what plans have in common."""

from __future__ import annotations

from typing import Any

from dask_fmware.profile.law import StepLaw
from dask_fmware.profile.replica import Limits
from dask_fmware.provisioning import (
    CardType,
    Inventory,
    Kind,
    ModelLoad,
    NodeDemand,
    Observation,
    ReplicaNow,
    WorkflowDemand,
)
from dask_fmware.provisioning.views import Plan

LAW = StepLaw.plain(0.02, 2e-4, 5e-4, 1e-7)


def inventory(
    speeds: dict[str, float] | None = None,
    *,
    cards: int = 10,
    prices: dict[str, float] | None = None,
    models: tuple[str, ...] = ("m",),
    load_s: float = 30.0,
    slots: int = 8,
    per_card: int = 1,
) -> Inventory:
    """Models on card types of these speeds; a card costs what `prices` says, or its speed."""
    speeds = speeds or {"slow": 1.0}
    types = {name: CardType(name, cards, per_card, (prices or speeds)[name]) for name in speeds}
    kinds = {}
    for model in models:
        for name, speed in speeds.items():
            law = LAW.scaled(1 / speed, 1 / speed)
            kinds[model, name] = Kind(model, name, law, Limits(slots), load_s, types[name].price_per_hour / per_card)
    return Inventory(types, kinds)


def flow(rate: float, *, model: str = "m", slo_s: float = 2.0, prompt: float = 500, output: float = 100, **more: Any):
    """A workflow of one answering call."""
    node = NodeDemand("answer", model, prompt_tokens=prompt, output_tokens=output, answers=True)
    return WorkflowDemand(more.pop("name", f"flow-{model}"), (node,), rate, slo_s, **more)


def seen(*flows: WorkflowDemand, replicas: tuple[ReplicaNow, ...] = (), **loads: ModelLoad) -> Observation:
    return Observation(flows, loads, replicas)


def ready(name: str, accelerator: str = "slow", model: str = "m", state: Any = "ready", **more: Any) -> ReplicaNow:
    return ReplicaNow(name, model, accelerator, state, more.pop("since", 0.0), **more)


def kinds(plan: Plan) -> list[str]:
    return [step.kind for step in plan.steps]


def stock(count: int, **more: object) -> tuple[ReplicaNow, ...]:
    return tuple(ready(f"m-{i}", **more) for i in range(count))  # type: ignore[arg-type]
