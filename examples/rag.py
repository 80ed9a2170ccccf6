"""Answering questions about Dask from its own documentation: two model calls around a retrieval.

Run it with ``python examples/rag.py``. The embedded cluster serves random weights, so the answer is
word salad; put ``gguf: path/to/model.gguf`` into the deployment, and nothing else changes.
"""

from __future__ import annotations

from distributed import Client

import dask_fmware as fm
from dask_fmware.demo import passages

# Two models on one card each. `latency` is left out: it is measured when a replica starts.
DEPLOYMENT = """
accelerators:
  cpu: {cards: 2}
models:
  small:
    on: {cpu: {}}
    arguments: {tiny: {layers: 4, width: 256, heads: 4}}
  large:
    on: {cpu: {}}
    arguments: {tiny: {layers: 8, width: 512, heads: 8}}
"""

small, large = fm.Model("small"), fm.Model("large")


@fm.task
def retrieve(question, query):
    """Plain Python: full-text search in the docstrings of dask and distributed."""
    return "\n".join(passages.search(f"{question} {query}"))


@fm.workflow(slo=fm.SLO(ttft_s=2.0))
def rag(question):
    query = small("Rewrite as a search query: {question}", name="rewrite", question=question, max_tokens=16)
    return large(
        "Answer from these passages.\n{passages}\nQuestion: {question}\nAnswer:",
        name="answer",
        passages=retrieve(question, query),
        question=question,
        max_tokens=64,
    )


def main() -> None:
    passages.build(passages.database())  # once; kept in the cache directory
    with fm.LocalModelCluster(DEPLOYMENT) as cluster, Client(cluster) as client:
        fm.wait_ready(client)

        # A bound workflow is a Dask collection, and its result a Future. Read along while it is made:
        future = client.compute(rag("How do I scale a cluster up and down?"))
        for chunk in fm.stream(future):
            print(chunk, end="", flush=True)
        print("\n")

        # Where did each call run, what did it wait for, and did the run meet its objective?
        print(fm.report(future), "\n")

        # Several runs at once, the last with an objective and a priority of its own:
        runs = [rag(f"What does {name} do?") for name in ("persist", "scatter", "rechunk")]
        runs.append(rag("What is a nanny?").options(slo=fm.SLO(ttft_s=1.0), priority=10))
        for future in client.compute(runs):
            future.result()
            print(fm.report(future).title)


if __name__ == "__main__":
    main()
