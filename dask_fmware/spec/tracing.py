"""From a Python function to a workflow document: `trace` calls it with handles and keeps what it records.

The names that are used inside such a function are gathered here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.calls import Model, Task, task
from dask_fmware.spec.checks import check
from dask_fmware.spec.control import loop, map_, switch
from dask_fmware.spec.function_kind import function_kind
from dask_fmware.spec.record import complaint, shorten
from dask_fmware.spec.recording import Recording, Value, recording
from dask_fmware.spec.slo import SLO
from dask_fmware.spec.workflow import Input, Workflow

__all__ = ["Model", "Task", "Value", "loop", "map_", "switch", "task", "trace"]


def trace(function: Callable[..., Any], *, name: str | None = None, slo: SLO | None = None) -> Workflow:
    """Call a workflow function with handles for its arguments and return the workflow it describes.

    Parameters
    ----------
    function
        Builds the workflow; its parameters are the inputs, their defaults JSON values.
    name
        Name of the workflow; by default the function's.
    slo
        Default objective of its runs.

    Raises
    ------
    WorkflowError
        If the function uses ``*args`` or ``**kwargs``, does not return the value of a node, or describes
        a workflow that does not pass `dask_fmware.spec.graph.check`.

    Examples
    --------
    >>> small = Model("small")
    >>> trace(lambda text: small("Summarise: {text}", text=text), name="summary").nodes["small"].model
    'small'
    """
    if not callable(function):
        raise WorkflowError(f"a workflow is traced from a function, not from a {type(function).__name__}")
    called: str = name if name is not None else getattr(function, "__name__", type(function).__name__)
    kind = function_kind(function)
    if kind is not None:
        raise WorkflowError(f"workflow '{called}': a {kind} function cannot be traced; use a plain def")
    inputs = _inputs(function, called)
    made = Recording(workflow=shorten(str(called)), taken={item.name for item in inputs})
    with recording(made):
        output = function(**{item.name: made.value(item.name) for item in inputs})
        block = made.close(made.scopes[0], output, f"workflow '{made.workflow}'")
    try:
        workflow = Workflow(
            name=called, description=inspect.getdoc(function) or "", inputs=inputs, block=block, slo=slo
        ).with_code(made.functions, made.schemas)
    except ValidationError as error:
        hint = "; name it with letters, digits, _ and - of ASCII" if name is None else ""
        raise WorkflowError(f"workflow '{made.workflow}': {complaint(error)}{hint}") from None
    check(workflow, code=True)
    return workflow


def _inputs(function: Callable[..., Any], called: str) -> list[Input]:
    inputs: list[Input] = []
    where = f"workflow '{called}'"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise WorkflowError(f"{where}: inputs have names and '{parameter}' has none; list them as parameters")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise WorkflowError(f"{where}: the input '{parameter.name}' is positional only; inputs are given by name")
        default = None if parameter.default is parameter.empty else parameter.default
        required = parameter.default is parameter.empty
        try:
            inputs.append(Input(name=parameter.name, required=required, default=default))
        except ValidationError as error:
            about = error.errors(include_url=False)[0]["loc"][0]
            if about == "name":
                raise WorkflowError(
                    f"{where}: the input '{shorten(parameter.name)}' is no name of ASCII letters and digits; rename it"
                ) from None
            raise WorkflowError(
                f"{where}: the default of '{parameter.name}' is a {type(default).__name__} and not a JSON value; "
                "use text, numbers, lists and dictionaries"
            ) from None
    return inputs
