"""Objects that a command line names: ``module:name`` of the working directory or of what is installed."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_fmware.errors import WorkflowError

if TYPE_CHECKING:
    from dask_fmware.spec.workflow import Workflow

__all__ = ["import_named", "is_named", "workflow_named"]

DOCUMENTS = (".yaml", ".yml", ".json")


def is_named(name: str) -> bool:
    """Whether a text is a ``module:name`` and not a path."""
    _, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and not Path(name).exists()


def import_named(name: str) -> Any:
    """Return the object that ``module:name`` names.

    Raises
    ------
    WorkflowError
        If there is none.
    """
    module, _, attribute = name.partition(":")
    if not module or module.startswith("."):
        raise WorkflowError(f"'{name}': '{module}' is no name of a module; give module:name, such as flows:{attribute}")
    sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
    try:
        found = import_module(module)
    except ImportError as error:
        raise WorkflowError(f"'{name}': cannot import '{module}' ({error}); give module:name or a document") from None
    finally:
        sys.path.remove("")
    try:
        return getattr(found, attribute)
    except AttributeError:
        raise WorkflowError(f"'{name}': module '{module}' has no '{attribute}'") from None


def workflow_named(name: str) -> Workflow:
    """Return a workflow from a document, or from ``module:name`` of a decorated function.

    Raises
    ------
    WorkflowError
        If it cannot be read or found, or is no workflow.
    """
    from dask_fmware.spec.documents import load_workflow
    from dask_fmware.spec.workflow import Workflow

    if not is_named(name):
        if name.endswith(".py"):
            raise WorkflowError(f"'{name}' is a Python file; write module:name, such as {Path(name).stem}:my_workflow")
        if not Path(name).exists() and Path(name).suffix not in DOCUMENTS:
            module, _, attribute = Path(name).name.rpartition(".")
            such = f"{module or 'flows'}:{attribute}"
            raise WorkflowError(f"'{name}': no such file; write module:name, such as {such}, or the path of a document")
        return load_workflow(Path(name))
    found = import_named(name)
    spec = getattr(found, "workflow", found)
    if not isinstance(spec, Workflow):
        raise WorkflowError(f"'{name}' is a {type(found).__name__}, not a workflow; decorate it with @fm.workflow")
    return spec
