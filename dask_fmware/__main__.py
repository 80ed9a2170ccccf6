"""``python -m dask_fmware`` is ``dask fmware``."""

import sys

try:
    from dask_fmware.cli import fmware
except KeyboardInterrupt:  # before there is a command group that ends it
    sys.exit(130)

fmware(prog_name="dask fmware")
