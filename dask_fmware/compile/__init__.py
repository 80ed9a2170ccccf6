"""From a workflow to a Dask graph, and the collection that users submit. Floor 3."""

from dask_fmware.compile.collection import BoundWorkflow, WorkflowFunction, workflow

__all__ = ["BoundWorkflow", "WorkflowFunction", "workflow"]
