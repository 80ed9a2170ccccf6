"""The two workflows that the tests of documents, graphs and drawings share."""

from __future__ import annotations

import pytest

from dask_fmware.spec.slo import SLO
from dask_fmware.spec.tracing import Model, map_, switch, task, trace
from dask_fmware.spec.workflow import Workflow

small, large = Model("small"), Model("large")


@task
def retrieve(query: str) -> list[str]:
    return [query]


@task
def lookup(number: str) -> str:
    return number


@pytest.fixture
def tasks():
    return [retrieve, lookup]


@pytest.fixture
def rag() -> Workflow:
    def rag(question):
        """Answer from what retrieval finds."""
        query = small("Rewrite as a search query: {question}", question=question, max_tokens=24)
        return large("Answer {question} from:\n{passages}", question=question, passages=retrieve(query), max_tokens=256)

    return trace(rag, slo=SLO(ttft_s=2.0))


@pytest.fixture
def shopping() -> Workflow:
    def shopping(message):
        intent = small("Intent of: {message}", message=message, choices=["order", "search", "chat"], name="intent")

        def order():
            number = small("Order number in: {message}", message=message, max_tokens=12, name="number")
            return large("Tell {status} on {message}", status=lookup(number), message=message, name="status")

        def search():
            hits = retrieve(small("Query for: {message}", message=message, max_tokens=24, name="query"))
            notes = map_(lambda hit: small("Judge {hit}", hit=hit, max_tokens=16, name="judge"), hits)
            return large("Recommend from {notes}", notes=notes, max_tokens=200, name="recommend")

        chat = lambda: large("Reply to {m}", m=message, name="reply")  # noqa: E731
        return switch(intent, order=order, search=search, chat=chat, name="route")

    return trace(shopping, slo=SLO(ttft_s=2.5))
