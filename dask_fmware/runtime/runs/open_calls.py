"""Calls of a map or loop that are not over, by where they stand: a look at a few costs the same beside thousands."""

from __future__ import annotations

from itertools import chain, islice

from dask_fmware.model.report import CallState

__all__ = ["OpenCalls"]


class OpenCalls:
    """Call ids, each with its place among the calls of its run."""

    __slots__ = ("planned", "runnable", "running")

    def __init__(self) -> None:
        self.planned: dict[str, int] = {}
        self.runnable: dict[str, int] = {}  # those that wait for a replica, as long as they do in the order they came
        self.running: dict[str, int] = {}

    def put(self, call_id: str, place: int, state: CallState) -> None:
        """A call stands there from now on; one that is over is open no more."""
        there = self._at(state)
        if there is None or call_id not in there:
            self.forget(call_id)
        if there is not None:
            there[call_id] = place

    def forget(self, call_id: str) -> None:
        """A call is open no more."""
        for there in (self.planned, self.runnable, self.running):
            there.pop(call_id, None)

    def _at(self, state: CallState) -> dict[str, int] | None:
        match state:
            case "planned":
                return self.planned
            case "held" | "queued":
                return self.runnable
            case "running":
                return self.running
        return None

    @property
    def to_start(self) -> int:
        """Calls that have not started."""
        return len(self.planned) + len(self.runnable)

    def first(self, most: int) -> list[str]:
        """Calls to start: all by their places, or of more than `most` so many, runnable ones first."""
        if self.to_start > most:
            return list(islice(chain(self.runnable, self.planned), most))
        places = self.planned | self.runnable
        return sorted(places, key=places.__getitem__)
