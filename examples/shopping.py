"""A shopping chatbot: an intent label decides the path, and branches that are not taken cost nothing.

Run it with ``python examples/shopping.py``. It shows `choices`, `schema`, `fm.switch`, `fm.map` and
`fm.loop`. Weights are random: intents, orders and verdicts are drawn by lot, but they are well-formed.
"""

from __future__ import annotations

from typing import Literal

from distributed import Client
from pydantic import BaseModel, ConfigDict, Field

import dask_fmware as fm
from dask_fmware.demo.inputs import MESSAGES

DEPLOYMENT = """
accelerators:
  cpu: {cards: 2}
models:
  small:
    on: {cpu: {replicas: 2}}
    arguments: {tiny: {layers: 4, width: 256, heads: 4}}
"""

small = fm.Model("small", max_tokens=24)
SHELF = ["two-person tent, 189 euros", "gas stove, 45 euros", "head lamp, 39 euros"]


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")  # small models would add keys without end
    item: Literal["tent", "stove", "lamp"]
    quantity: int = Field(ge=1, le=9)


@fm.task
def find(message):
    return SHELF


@fm.task
def is_good(verdict):
    return verdict == "good"


@fm.workflow(slo=fm.SLO(ttft_s=2.5))
def shopping(message):
    def order():
        typed = small("Order in: {m}\nJSON:", name="extract", m=message, schema=Order, max_tokens=48)
        return small("Confirm: {typed}", name="confirm", typed=typed)

    def search():
        pitches = fm.map(lambda hit: small("Pitch {hit}", name="pitch", hit=hit, max_tokens=12), find(message))
        return small("Recommend one of {pitches} to {m}", name="recommend", pitches=pitches, m=message)

    def chat():
        return fm.loop(
            lambda last: small("Reply to {m}, better than {last}", name="draft", m=message, last=last),
            "nothing",
            until=lambda text: is_good(small("Rate {text}", name="judge", text=text, choices=["good", "poor"])),
            max_iterations=2,
        )

    intent = small("Intent of {m}:", name="intent", m=message, choices=["order", "search", "chat"])
    return fm.switch(intent, order=order, search=search, chat=chat)


def main() -> None:
    with fm.LocalModelCluster(DEPLOYMENT) as cluster, Client(cluster) as client:
        fm.wait_ready(client)
        futures = client.compute([shopping(message) for message in MESSAGES])
        client.gather(futures)
        reports = fm.reports(client, futures)
        print(reports[0], "\n")
        print(f"{sum(report.met for report in reports)} of {len(reports)} runs met their SLO")


if __name__ == "__main__":
    main()
