"""One tiny random Llama for the whole session."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from dask_fmware_workers.engines.tiny_llama import TinyLlama


@cache
def tiny_llama() -> Path:
    """Write the model (0.7M parameters) into the cache of the session and return its directory."""
    return TinyLlama().write(Path(os.environ["XDG_CACHE_HOME"]) / "tiny-llama")
