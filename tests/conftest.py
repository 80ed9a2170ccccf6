"""What all tests share: Dask with its own defaults, whatever the user's configuration says."""

from __future__ import annotations

import os

os.environ["DASK_CONFIG"] = os.devnull  # read when dask is imported
