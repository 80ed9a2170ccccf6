"""The figures as the page gets them: JSON, made at most once a second however many look."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from dask_fmware.observe.figures import Figures

__all__ = ["Board"]

FRESH_S = 0.9  # pages ask once a second
PREDICTIONS_S = 5.0
MANY_REPLICAS = 300  # above, figures are made every third second


class Board:
    """JSON of the figures.

    Parameters
    ----------
    figures
        Made from the history of the machine.
    clock
        Seconds since the epoch. Versions count on from when the board was made, so that those of another router,
        which a page that was left open still has, do not come again.
    extra
        What the scheduler knows beside the machine: replicas that failed, provisioning.
    """

    def __init__(
        self, figures: Figures, clock: Callable[[], float], extra: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self.figures = figures
        self._clock = clock
        self._extra = extra
        self._began = int(1e3 * clock())  # ms since the epoch: thirteen digits, which numbers of the page hold
        self._live: tuple[float, str] = (float("-inf"), "")
        self._fleet: tuple[int, str] = (-1, "")
        self._graphs: tuple[int, str] = (-1, "")
        self._predictions: tuple[float, int, str] = (float("-inf"), self._began, "")

    def json(self, *, fleet: int = -1, graphs: int = -1, predictions: int = -1) -> str:
        """Return the figures, without the parts whose version the page has already."""
        now, history = self._clock(), self.figures.history
        fresh_s = FRESH_S if len(history.machine.fleet) < MANY_REPLICAS else 3 * FRESH_S
        if not 0 <= now - self._live[0] < fresh_s:
            self._made(now)
        if self._graphs[0] != (version := self._began + history.graphs_version):
            self._graphs = version, _dump(self.figures.graphs())
        if not 0 <= now - self._predictions[0] < PREDICTIONS_S:
            self._predictions = now, self._predictions[1] + 1, _dump(self.figures.predictions())
        parts = [f'"live":{self._live[1]}']
        for name, seen, (version, text) in (
            ("fleet", fleet, self._fleet),
            ("graphs", graphs, self._graphs),
            ("predictions", predictions, self._predictions[1:]),
        ):
            if version != seen:
                parts.append(f'"{name}":{{"version":{version},"data":{text}}}')
        return "{" + ",".join(parts) + "}"

    def _made(self, now: float) -> None:
        """Make what changes each second, and the fleet of that moment, in whose order columns over replicas are."""
        version = self._began + self.figures.history.fleet_version
        self._live = now, _dump({**self.figures.live(now), **self._extra(), "fleet": version})
        if self._fleet[0] != version:
            self._fleet = version, _dump(self.figures.fleet())


def _dump(data: Any) -> str:
    """Write JSON, in which what is no number is null; that is sought only where there is one."""
    try:
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:
        known = to_jsonable_python(data, inf_nan_mode="null")
        return json.dumps(known, separators=(",", ":"), allow_nan=False)
