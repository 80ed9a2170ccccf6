"""An emulated engine that writes down when each of its requests came and ended, on a clock that processes share.

Importing it, as a Dask worker does that has it as a preload, makes it known as ``timed``.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.support.card_engine import CardEngine
from dask_fmware.model.engine import Delta, Request
from dask_fmware_workers.engines import ENGINES

__all__ = ["TimedEngine", "read_times"]


class TimedEngine(CardEngine):
    """Keeps a record beside the work.

    Parameters
    ----------
    folder
        Where each process writes a file of its own.
    **arguments
        Of `CardEngine`.
    """

    def __init__(self, *, folder: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._record = open(Path(folder) / f"{os.getpid()}-{id(self)}", "a", buffering=1)  # noqa: SIM115

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the planned answer."""
        came = monotonic()
        async with aclosing(super().generate(request)) as deltas:
            async for delta in deltas:
                if delta.finish_reason is not None:
                    self._record.write(json.dumps([came, monotonic()]) + "\n")
                yield delta


def read_times(folder: Path) -> list[list[tuple[float, float]]]:
    """Return when the requests of each engine came and ended, in order of coming."""
    return [
        sorted(tuple(json.loads(line)) for line in path.read_text().splitlines()) for path in sorted(folder.iterdir())
    ]


ENGINES["timed"] = "benchmarks.support.timed_engine:TimedEngine"
