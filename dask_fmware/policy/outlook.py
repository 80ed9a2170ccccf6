"""What a policy that plans is shown beside single calls: the runs under way with what they still have to do, and lanes.

A *lane* is what runs one call at a time: a card of which all replicas share one slot, or a replica with one slot. Lanes
are shown only where every replica is part of one and there are few, since elsewhere there is nothing to plan exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Protocol, runtime_checkable

from dask_fmware.model.immutable import immutable
from dask_fmware.policy.protocol import ReplicaView

__all__ = ["Job", "JobCall", "JobStep", "Lane", "Outlook", "Plan", "Planner", "Start"]


@immutable
class JobCall:
    """A call that has not started, or some that are alike."""

    call_id: str | None  # None: it is not runnable yet
    model: str
    prompt_tokens: float  # expected
    output_tokens: float
    avoid: frozenset[str] = frozenset()  # replicas on which it failed, where there are others
    times: float = 1.0  # it stands for so many, one after the other


@immutable
class JobStep:
    """A node of a run with calls still to start."""

    after: tuple[int, ...]  # steps before it, of the same job
    ready_at: float  # when its inputs are expected, as far as calls that run and plain code under way decide
    pause_s: float  # plain code between the steps before it and its calls
    calls: tuple[JobCall, ...]
    in_turn: bool  # one after the other
    answers: bool
    due: float  # when its calls must have done what they are for, for the rest of the run to be in time


@immutable
class Job:
    """A run that can still be in time. Nodes behind a switch that has not decided are not among its steps."""

    run_id: str
    tenant: str
    priority: int
    deadline: float
    submitted: float
    begun: bool
    excess: float  # as of a call
    steps: tuple[JobStep, ...]


@immutable
class Lane:
    """What runs one call at a time."""

    free_at: float  # when it is expected to end the call that it runs; in the past if it runs none
    replicas: Mapping[str, ReplicaView]  # by model
    has_room: bool = True  # it runs none, or one that is about to end


class Outlook(Protocol):
    """All that a plan needs."""

    def lanes(self, now: float) -> Sequence[Lane]:
        """Every lane; empty where a plan is not for."""
        ...

    def jobs(self, now: float, most: int) -> Sequence[Job]:
        """Runs with a deadline that still have calls to start, at most so many: by priority, then by deadline."""
        ...

    def expected(self, now: float) -> Sequence[Job]:
        """Runs as they may come from now on; empty as long as too few have come to tell."""
        ...


@immutable
class Start:
    """A held call that is to start now."""

    call_id: str
    replica_id: str
    reason: str
    priority: float


@immutable
class Plan:
    """What is to happen on all lanes."""

    starts: tuple[Start, ...] = ()
    wake_at: float | None = None  # when the next call starts on a lane that is idle until then
    free_until: Mapping[str, float] = field(default_factory=dict)  # replica -> when the plan needs its lane


@runtime_checkable
class Planner(Protocol):
    """A policy that looks at all runs and lanes before it looks at single calls."""

    def plan(self, outlook: Outlook, now: float) -> Plan | None:
        """Return what is to start now, before any `choose`; None to leave everything to `choose`."""
        ...
