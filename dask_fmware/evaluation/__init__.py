"""Batch evaluation: a workflow over a data set, streamed, scored and resumable, and outputs compared."""

from dask_fmware.evaluation import scorers

__all__ = ["scorers"]
