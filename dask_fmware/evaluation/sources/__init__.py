"""Data sets as evaluations read them: files, data frames, bags, data sets of Hugging Face, plain iterables."""

from dask_fmware.evaluation.sources.opening import open_source
from dask_fmware.evaluation.sources.source import DataError, Row, Source

__all__ = ["DataError", "Row", "Source", "open_source"]
