"""Answers a profiler on the engine of this worker, one experiment at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dask_fmware.model.engine import Engine
from dask_fmware_workers.loading import Loaded
from dask_fmware_workers.profiling import file_bytes, measure

__all__ = ["Measuring"]


class Measuring:
    """What a profiler may ask of a worker.

    Parameters
    ----------
    worker
        Its name.
    loaded
        Gives the engine that serves, or None.
    """

    def __init__(self, worker: str, loaded: Callable[[], Loaded | None]) -> None:
        self._worker, self._loaded = worker, loaded
        self._measured: Engine | None = None  # at this moment

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure something on the engine, which has no calls meanwhile (RPC)."""
        loaded = self._loaded()
        if loaded is None:
            return {"error": f"worker '{self._worker}' has no engine that serves"}
        if question["kind"] == "key":
            key = loaded.profile_key
            if key is None:
                return {"error": "its engine tells no name or version"}
            weight_bytes = await asyncio.to_thread(file_bytes, loaded.arguments)
            return {"key": key.model_dump(), "weight_bytes": weight_bytes}
        if self._measured is loaded.engine:  # for somebody whose lease ended while this went on
            return {
                "error": f"worker '{self._worker}' is being measured already: an experiment of an earlier profiler "
                "still runs; profile again when it is done"
            }
        self._measured = loaded.engine
        try:
            return await measure(loaded.engine, question, loaded.footprint, loaded.arguments)
        finally:
            if self._measured is loaded.engine:
                self._measured = None
