"""Which Python objects belong to a document: functions of task nodes, classes of typed outputs.

Nothing is imported on the word of a document. Whoever loads it hands over what it may run, and names in
the document are matched against that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias, cast

from pydantic import BaseModel

from dask_fmware.errors import WorkflowError
from dask_fmware.spec.record import did_you_mean, shorten
from dask_fmware.spec.workflow import ModelNode, TaskNode, Workflow

__all__ = ["Schemas", "Tasks", "supply"]

Function: TypeAlias = Callable[..., Any]
Tasks: TypeAlias = Function | Iterable[Function] | Mapping[str, Function] | ModuleType
Schemas: TypeAlias = type[BaseModel] | Iterable[type[BaseModel]]


def supply(workflow: Workflow, tasks: Tasks | None = None, schemas: Schemas | None = None) -> Workflow:
    """Return the workflow with functions and classes attached.

    Parameters
    ----------
    workflow
        A workflow read from a document.
    tasks
        Functions (decorated with ``@task`` or plain), one of them, a mapping of names to functions, or a module. A
        task node takes the one named ``module:qualname`` as in the document, else the one of that plain
        name. If given, every task node must find its function.
    schemas
        pydantic classes, or one; a model node takes the one whose JSON schema is its own.

    Raises
    ------
    WorkflowError
        If a function is missing, two of the same plain name fit, or something else was given.
    """
    functions: dict[str, Function] = {}
    if tasks is not None:
        given = _by_name(tasks)
        for name, node in workflow.nodes.items():
            if isinstance(node, TaskNode):
                functions[name] = _find(node, given, f"workflow '{workflow.name}', node '{name}'")
    classes = [(item, item.model_json_schema()) for item in _classes(schemas)]
    typed = {
        name: item
        for name, node in workflow.nodes.items()
        for item, schema in classes
        if isinstance(node, ModelNode) and node.json_schema == schema
    }
    return workflow.with_code(functions, typed)


def _find(node: TaskNode, given: Mapping[str, list[Function]], where: str) -> Function:
    plain = node.function.rpartition(":")[2].rpartition(".")[2]
    fits = given.get(node.function) or given.get(plain) or []
    if len(fits) > 1:
        raise WorkflowError(
            f"{where}: {len(fits)} functions named '{shorten(plain)}' were supplied; supply one of them"
        )
    if not fits:
        known = sorted(name for name in given if ":" not in name)
        hint = did_you_mean(plain, known)
        raise WorkflowError(
            f"{where}: its function '{shorten(node.function)}' was not supplied{hint} "
            f"(supplied: {shorten(', '.join(known), 200) or 'none'}); add it to tasks"
        )
    return fits[0]


def _by_name(tasks: Tasks) -> dict[str, list[Function]]:
    """Functions by ``module:qualname`` and by plain name."""
    pairs: list[tuple[str | None, Any]]
    if isinstance(tasks, ModuleType):
        pairs = [(name, item) for name, item in vars(tasks).items() if callable(item)]
    elif isinstance(tasks, Mapping):
        pairs = list(tasks.items())
    elif callable(tasks):
        pairs = [(None, tasks)]
    elif isinstance(tasks, Iterable) and not isinstance(tasks, str):
        # mypy holds that any object may be a module
        pairs = [(None, item) for item in cast(Iterable[Function], tasks)]
    else:
        raise WorkflowError(f"tasks is a {type(tasks).__name__}; give functions, a mapping of names, or a module")
    named: dict[str, list[Function]] = {}
    for key, item in pairs:
        if not callable(item):
            raise WorkflowError(f"tasks holds a {type(item).__name__}; give functions")
        function = _unwrapped(item)
        names = {key} if key is not None else set()
        qualname = getattr(function, "__qualname__", None)
        if qualname is not None:
            names |= {qualname.rpartition(".")[2], f"{function.__module__}:{qualname}"}
        for name in names:
            fits = named.setdefault(name, [])
            if function not in fits:
                fits.append(function)
    return named


def _classes(schemas: Schemas | None) -> list[type[BaseModel]]:
    if schemas is None:
        return []
    given = [schemas] if isinstance(schemas, type) or not isinstance(schemas, Iterable) else list(schemas)
    for item in given:
        if not (isinstance(item, type) and issubclass(item, BaseModel)):
            raise WorkflowError(f"schemas holds a {type(item).__name__}; give pydantic classes")
    return given


def _unwrapped(item: Function) -> Function:
    from dask_fmware.spec.calls import Task

    return item.function if isinstance(item, Task) else item
