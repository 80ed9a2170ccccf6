"""What a simulated cluster is made of: cards, replicas on them, attempts on those."""

from __future__ import annotations

from math import inf
from typing import Literal, TypeAlias

from dask_fmware.model.replica import Replica
from dask_fmware.profile.emulation import EmulatedBatch
from dask_fmware.simulation.scenario import Failure, Hosting

__all__ = ["Attempt", "VirtualCard", "VirtualReplica"]

State: TypeAlias = Literal["starting", "ready", "draining", "gone"]


class Attempt:
    """A call on an engine."""

    __slots__ = ("arrived", "began", "cached", "call_id", "ended", "number", "replica", "started")

    def __init__(self, call_id: str, number: int, replica: VirtualReplica, started: float) -> None:
        self.call_id = call_id
        self.number = number
        self.replica = replica
        self.started = started  # when it was decided
        self.cached = 0  # tokens of its prompt
        self.arrived = self.began = self.ended = -1.0  # at its engine; -1 before


class VirtualCard:
    """One piece of hardware, paid for while a replica is on it."""

    __slots__ = ("accelerator", "back_at", "is_timed", "name", "replicas", "since", "slow", "slowed_by")

    def __init__(self, name: str, accelerator: str, since: float) -> None:
        self.name = name
        self.accelerator = accelerator
        self.replicas: list[VirtualReplica] = []
        self.since = since  # when its first replica was asked for
        self.slow = 1.0  # steps take so many times as long as they should
        self.slowed_by: list[Failure] = []  # those that are not over, the latest last
        self.back_at = 0.0  # it was lost until then
        self.is_timed = False  # the machine is told of its steps


class VirtualReplica:
    """One emulated engine."""

    __slots__ = ("ahead", "attempts", "batch", "card", "hosting", "replica", "since", "state", "wakes_at")

    def __init__(self, replica: Replica, hosting: Hosting, card: VirtualCard, since: float) -> None:
        self.replica = replica
        self.hosting = hosting
        self.card = card
        self.since = since  # when its state began
        self.state: State = "starting"
        self.batch = EmulatedBatch(hosting.step_law, hosting.limits)
        self.attempts: dict[Attempt, None] = {}  # on it, in order of their start
        self.ahead: list[Attempt] = []  # at the engine, without a slot of it
        self.wakes_at = inf

    @property
    def replica_id(self) -> str:
        """How machine and controllers name it."""
        return self.replica.replica_id

    @property
    def model(self) -> str:
        """The model it serves."""
        return self.replica.model

    @property
    def accelerator(self) -> str:
        """The type of its card."""
        return self.replica.accelerator

    @property
    def running(self) -> int:
        """Attempts on it."""
        return len(self.attempts)
