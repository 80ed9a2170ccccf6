"""A small job: questions to one model, answered by a scripted engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask_fmware as fm
from dask_fmware.testing import InProcessCluster

__all__ = ["ask", "data", "evaluate", "small"]

small = fm.Model("small")


@fm.workflow(slo=fm.SLO(ttft_s=60))
def ask(question):
    return small("{question}", question=question, max_tokens=64, name="answer")


def data(rows: int, faults: range = range(0)) -> list[dict[str, Any]]:
    """Questions, some of which the engine fails on."""
    return [{"question": f"q{n} engine-fault" if n in faults else f"q{n}", "expected": "so it is"} for n in range(rows)]


async def evaluate(cluster: InProcessCluster, workflow: Any, rows: Any, output: Path, **options: Any) -> Any:
    return await fm.evaluate(workflow, rows, output=output, client=cluster.client, progress=False, **options)
