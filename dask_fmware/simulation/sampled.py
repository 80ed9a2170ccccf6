"""A run with all that is true of it: what engines and plain code will do, which policies do not know."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from dask_fmware.model.plan import RunPlan

__all__ = ["Body", "Lengths", "SampledNode", "SampledRun"]

Lengths: TypeAlias = tuple[int, int]  # prompt and output tokens of a call


@dataclass(slots=True)
class Body:
    """One body of a map or loop: what it adds to its run, and what will come of it."""

    plan: RunPlan
    nodes: tuple[SampledNode, ...]


@dataclass(slots=True)
class SampledNode:
    """One node of one run, with what is true of it."""

    name: str
    model: str | None
    after: tuple[int, ...]  # indices of the nodes it waits for, deciding ones included
    taken: bool = True  # whether its branch is
    call: Lengths | None = None  # of a model node
    bodies: tuple[Body, ...] = ()  # of a map or loop
    in_turn: bool = False  # a loop: one body after the other
    seconds: float = 0.0  # of plain code; of a model node or of bodies, of the code right before
    decides: tuple[tuple[str, int | None], ...] = ()  # switches and the branches they take by its value
    answers: bool = False

    @property
    def calls(self) -> tuple[Lengths, ...]:
        """Its own call, or those of its bodies."""
        if self.call is not None:
            return (self.call,)
        if not self.bodies:
            return ()
        return tuple([call for body in self.bodies for node in body.nodes if node.taken for call in node.calls])


@dataclass(slots=True)
class SampledRun:
    """One run: what is submitted, and what will come of it."""

    run_id: str
    arrival: float
    workflow: str
    tenant: str
    plan: RunPlan
    nodes: tuple[SampledNode, ...]
    unloaded_s: float  # until it is due with what it is due with, alone on the reference card
    deadline: float  # absolute; infinity without an SLO
    is_whole: bool = False  # whether the deadline is of the complete answer, not of its first token
    ends_by: float = inf  # absolute; of the complete answer, where the first token has a deadline of its own
