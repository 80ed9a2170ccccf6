"""A shopping chatbot: an intent label decides the path, and a path has up to five model calls.

``order``: extract what is ordered as a typed object, confirm. ``search``: take three items from the
shelves, pitch each, recommend one. ``chat``: draft a reply until a judge lets it pass, at most twice.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import dask_fmware as fm

__all__ = ["Order", "shopping"]

small, large = fm.Model("small"), fm.Model("large")

SHELVES = {
    "tent": "two-person tent, 2.1 kg, 189 euros",
    "stove": "gas stove, boils a litre in 4 minutes, 45 euros",
    "lamp": "head lamp, 350 lumens, 39 euros",
    "boots": "hiking boots, waterproof, 149 euros",
    "jacket": "rain jacket, 320 g, 119 euros",
}


class Order(BaseModel):
    """What a customer orders."""

    model_config = ConfigDict(extra="forbid")  # or the schema, and so the model, may add keys without end
    item: Literal["tent", "stove", "lamp", "boots", "jacket"]
    quantity: int = Field(ge=1, le=9)


@fm.task
def check_stock(order: Order) -> str:
    """Say what is reserved for an order."""
    return f"{order.quantity} x {SHELVES[order.item]}, in stock"


@fm.task
def find_items(message: str) -> list[str]:
    """Take three items from the shelves, those that the message names first."""
    return [SHELVES[item] for item in sorted(SHELVES, key=lambda item: item not in message.lower())[:3]]


@fm.task
def passes(verdict: str) -> bool:
    """Whether the judge lets a draft pass."""
    return verdict == "good"


def _order(message: Any) -> Any:
    order = small("Customer: {m}\nOrder as JSON:", name="extract", m=message, schema=Order, max_tokens=48)
    return large("Confirm this order: {line}\nShop:", name="confirm", line=check_stock(order), max_tokens=32)


def _search(message: Any) -> Any:
    pitches = fm.map(lambda hit: small("Pitch: {hit}\n", name="pitch", hit=hit, max_tokens=12), find_items(message))
    return large("Customer: {m}\nOffers: {pitches}\nShop:", name="recommend", m=message, pitches=pitches, max_tokens=40)


def _chat(message: Any) -> Any:
    def judge(draft: Any) -> Any:
        return passes(small("Rate this reply: {draft}\n", name="judge", draft=draft, choices=["good", "poor"]))

    def draft(last: Any) -> Any:
        return large("Customer: {m}\nDo better than: {last}\nShop:", name="draft", m=message, last=last, max_tokens=24)

    return fm.loop(draft, "nothing yet", until=judge, max_iterations=2)


@fm.workflow(slo=fm.SLO(ttft_s=2.5))
def shopping(message: Any) -> Any:
    """Serve a customer's message along the path that its intent asks for."""
    intent = small("Intent of: {m}", name="intent", m=message, choices=["order", "search", "chat"])
    return fm.switch(intent, {"order": lambda: _order(message), "search": lambda: _search(message)},
                     default=lambda: _chat(message))  # fmt: skip
