"""Sound workflows that are damaged."""

from __future__ import annotations

import dask_fmware as fm

small, large = fm.Model("small"), fm.Model("large")


@fm.task
def retrieve(query: str) -> list[str]:
    return [query]


@fm.workflow(slo=fm.SLO(ttft_s=2.0))
def rag(question):
    """Answer from what retrieval finds."""
    query = small("Rewrite as a search query: {question}", name="rewrite", question=question, max_tokens=24)
    return large("Answer {question} from {passages}", question=question, passages=retrieve(query), name="answer")


@fm.workflow(slo=fm.SLO(e2e_s=2.5))
def shopping(message):
    """A switch, a map and a loop."""
    intent = small("Intent of: {message}", message=message, choices=["order", "search", "chat"], name="intent")

    def search():
        notes = fm.map(lambda hit: small("Judge {hit}", hit=hit, max_tokens=16, name="judge"), retrieve(message))
        return large("Recommend from {notes}", notes=notes, max_tokens=200, name="recommend")

    def order():
        better = fm.loop(
            lambda text: small("Better: {text}", text=text, name="better"),
            message,
            until=lambda text: retrieve(text),
            max_iterations=3,
        )
        return large("Confirm {text}", text=better, name="confirm")

    return fm.switch(
        intent, order=order, search=search, chat=lambda: large("Reply to {m}", m=message, name="reply"), name="route"
    )
