"""Whether code and workflows are what they were: a text that changes when what they do may change."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dask_fmware.compile.collection import WorkflowFunction
from dask_fmware.evaluation.fingerprint.held import compiled, held, syntax
from dask_fmware.evaluation.fingerprint.mark import Mark, joined
from dask_fmware.evaluation.sources.source import digest

__all__ = ["code_fingerprint", "workflow_fingerprint"]


def workflow_fingerprint(workflow: WorkflowFunction) -> Mark:
    """Return a hash of a workflow's nodes, prompts and functions; its SLO changes no answer and is left out."""
    spec = workflow.workflow
    document = spec.model_copy(update={"slo": None}).to_json()
    marks = [(name, code_fingerprint(function)) for name, function in sorted(spec.functions.items())]
    return joined([document, *(replace(mark, code=f"{name} {mark.code}") for name, mark in marks)])


def code_fingerprint(function: Callable[..., Any] | WorkflowFunction) -> Mark:
    """Return a hash of a function's code and of what it holds.

    Comments and blanks do not count. What it calls is not followed.
    """
    if isinstance(function, WorkflowFunction):
        return workflow_fingerprint(function)
    words = held(function)
    return Mark(_code(inspect.unwrap(function)), digest([repr(words)]) if words else "")


def _code(function: Callable[..., Any]) -> str:
    tree = syntax(function)
    if tree is not None:
        return digest([tree])
    code = getattr(function, "__code__", None)
    return digest(compiled(code) if code is not None else [type(function).__qualname__])
