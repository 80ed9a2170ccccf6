"""From a planned run to a bound workflow: which workflow, with which input, bound and SLO."""

from __future__ import annotations

from functools import lru_cache

from dask_fmware.compile.collection import BoundWorkflow, WorkflowFunction, workflow
from dask_fmware.demo.inputs import QUESTIONS
from dask_fmware.demo.rag import rag
from dask_fmware.demo.schedule import Kind, PlannedRun
from dask_fmware.demo.shopping import shopping
from dask_fmware.spec.slo import SLO
from dask_fmware.spec.workflow import Workflow

__all__ = ["WORKFLOWS", "bind"]

WORKFLOWS: dict[Kind, WorkflowFunction] = {"rag": rag, "shopping": shopping}
ANSWERS = ("answer", "confirm", "recommend", "draft")  # nodes whose text users see
FILLER = " ".join(QUESTIONS).split()
TOKENS_PER_WORD = 1.65  # of the tiny models on plain English


def bind(run: PlannedRun, slo: SLO | None = None) -> BoundWorkflow:
    """Bind the workflow of a run to its input.

    Parameters
    ----------
    run
        Its text is the input; its padding is appended to it, about as many tokens of plain English.
    slo
        Replaces the workflow's own.
    """
    function = WORKFLOWS[run.workflow]
    if run.answer_tokens is not None:
        function = _bounded(run.workflow, run.answer_tokens)
    words = int(run.padding_tokens / TOKENS_PER_WORD)
    text = " ".join([run.text, *(FILLER * (words // len(FILLER) + 1))[:words]])
    bound = function(text)
    return bound.options(slo=slo) if slo is not None else bound


@lru_cache(maxsize=64)
def _bounded(kind: Kind, answer_tokens: int) -> WorkflowFunction:
    """Return the workflow with another bound of the answer: `max_tokens` belongs to a node, not to a run."""
    spec = WORKFLOWS[kind].workflow
    document = spec.model_dump(mode="json", by_alias=True)
    for item in _model_nodes(document["block"]):
        if item["name"] in ANSWERS:
            item["max_tokens"] = answer_tokens
    return workflow(Workflow.model_validate(document).with_code(spec.functions, spec.schemas))


def _model_nodes(part: object) -> list[dict[str, object]]:
    """Every model node in a document, at any depth."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    found = [node for item in inner for node in _model_nodes(item)]
    return [part, *found] if isinstance(part, dict) and part.get("kind") == "model" else found
