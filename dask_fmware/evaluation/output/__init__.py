"""The output of an evaluation: a folder of Parquet shards that any crash leaves sound."""

from dask_fmware.evaluation.output.durable import OutputError
from dask_fmware.evaluation.output.manifest import Manifest
from dask_fmware.evaluation.output.output import Output
from dask_fmware.evaluation.output.owner import check_output
from dask_fmware.evaluation.output.reading import read_output

__all__ = ["Manifest", "Output", "OutputError", "check_output", "read_output"]
