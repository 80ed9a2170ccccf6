"""How the router makes itself known to workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dask_fmware_scheduler.services import arrivals
from dask_fmware_scheduler.services.arrivals import Arrivals


class Lossy:
    """As much of Dask as greets a worker; so many greetings are lost, and after some the worker leaves."""

    def __init__(self, lost: int, leaves_after: int) -> None:
        self.lost, self.leaves_after, self.greeted = lost, leaves_after, 0

    def resources(self, worker: str) -> dict[str, float]:
        return {}

    def is_known(self, worker: str) -> bool:
        return self.greeted < self.leaves_after

    async def run(self, worker: str, function: Any, *, version: int) -> None:
        self.greeted += 1
        if self.greeted <= self.lost:
            raise OSError("the connection was cut")


@pytest.mark.parametrize(
    ("lost", "leaves_after", "greetings"), [(0, 9, 1), (3, 9, 4), (9, 2, 2)], ids=["heard", "heard late", "left"]
)
async def test_a_worker_is_greeted_until_it_has_heard_or_left(
    monkeypatch: pytest.MonkeyPatch, lost: int, leaves_after: int, greetings: int
) -> None:
    monkeypatch.setattr(arrivals, "FIRST_AGAIN_S", 0.001)
    dask = Lossy(lost, leaves_after)
    await Arrivals(SimpleNamespace(dask=dask)).greet("tcp://a")  # type: ignore[arg-type]
    assert dask.greeted == greetings
