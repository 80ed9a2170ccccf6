"""``python -m dask_fmware`` is ``dask fmware``."""

from dask_fmware.cli import fmware

fmware(prog_name="dask fmware")
