"""Whether code and workflows are what they were: a text that changes when what they do may change."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType
from typing import Any

from dask_fmware.compile.collection import WorkflowFunction
from dask_fmware.evaluation.sources.source import digest

__all__ = ["code_fingerprint", "workflow_fingerprint"]


def workflow_fingerprint(workflow: WorkflowFunction) -> str:
    """Return a hash of a workflow's nodes, prompts and functions; its SLO changes no answer and is left out."""
    spec = workflow.workflow
    document = spec.model_copy(update={"slo": None}).to_json()
    return digest([document, *(f"{name} {code_fingerprint(f)}" for name, f in sorted(spec.functions.items()))])


def code_fingerprint(function: Callable[..., Any] | WorkflowFunction) -> str:
    """Return a hash of a function's code; comments and blanks do not count, what it calls is not followed."""
    if isinstance(function, WorkflowFunction):
        return workflow_fingerprint(function)
    function = inspect.unwrap(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        return digest([ast.dump(tree)])
    except (OSError, TypeError, SyntaxError):  # no source: typed into a shell, a lambda in the middle of a line
        code = getattr(function, "__code__", None)
        return digest(_code(code) if code is not None else [type(function).__qualname__])


def _code(code: CodeType) -> list[object]:
    return [code.co_code.hex(), *(_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)]
