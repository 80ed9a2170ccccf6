"""Answering questions about Dask from its own documentation: two model calls around a retrieval."""

from __future__ import annotations

from typing import Any

import dask_fmware as fm
from dask_fmware.demo.passages import search

__all__ = ["rag", "retrieve"]

small, large = fm.Model("small"), fm.Model("large")


@fm.task
def retrieve(question: str, query: str) -> str:
    """Find passages by the words of the question and of the query that a model made of it."""
    return "\n".join(search(f"{question} {query}"))


@fm.workflow(slo=fm.SLO(ttft_s=2.5))
def rag(question: Any) -> Any:
    """Rewrite a question as a query, retrieve passages, answer from them."""
    query = small(
        "Rewrite as a search query, keep only the words that matter.\nQuestion: {question}\nQuery:",
        name="rewrite",
        question=question,
        max_tokens=16,
    )
    return large(
        "Answer the question from these passages of the Dask documentation.\n{passages}\nQuestion: {question}\nAnswer:",
        name="answer",
        passages=retrieve(question, query),
        question=question,
        max_tokens=48,
    )
