"""Workflows that the tests of this folder run."""

from __future__ import annotations

import dask_fmware as fm

small, large = fm.Model("small"), fm.Model("large")


@fm.task
def retrieve(query: str) -> list[str]:
    return ["first passage", f"second passage on {len(query)} characters"]


@fm.task
def where(after: object = None) -> str:
    """Name of the worker that runs it."""
    from distributed import get_worker

    return str(get_worker().name)


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def rag(question):
    query = small("Rewrite as a search query: {question}", question=question, max_tokens=12, name="rewrite")
    return large(
        "Answer {question} from:\n{passages}",
        question=question,
        passages=retrieve(query),
        max_tokens=24,
        name="answer",
    )


@fm.workflow(slo=fm.SLO(ttft_s=60.0))
def shopping(message):
    intent = small("Intent of: {message}", message=message, choices=["order", "search", "chat"], name="intent")
    return fm.switch(
        intent,
        order=lambda: large("Order {message}", message=message, max_tokens=8, name="order"),
        search=lambda: small(
            "Sum up {found}",
            found=fm.map(lambda item: small("Look at {item}", item=item, max_tokens=4, name="each"), retrieve(message)),
            max_tokens=8,
            name="summary",
        ),
        chat=lambda: fm.loop(
            lambda state: small("Go on: {state}", state=state, max_tokens=4, name="turn"), message, max_iterations=3
        ),
    )


@fm.workflow
def one(prompt):
    """A single call."""
    return small("{prompt}", prompt=prompt, max_tokens=64, name="call")


@fm.workflow
def fan(prompts):
    """A call for each prompt."""
    return fm.map(lambda prompt: small("{prompt}", prompt=prompt, max_tokens=8, name="each"), prompts, name="fan")
