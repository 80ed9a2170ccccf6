"""What can happen to the runtime. A shell makes these from what it observes; nothing else enters the machine."""

from __future__ import annotations

from typing import Literal, TypeAlias

from dask_fmware.model.immutable import immutable
from dask_fmware.model.messages import AttemptEnded, Branched, FirstToken, Overdue, StepsTimed
from dask_fmware.model.plan import RunPlan
from dask_fmware.model.replica import Replica

__all__ = [
    "AttemptEnded",
    "Branched",
    "CallDropped",
    "CallRetried",
    "CallRunnable",
    "CallWithdrawn",
    "Event",
    "FirstToken",
    "ModelAbandoned",
    "Overdue",
    "ReplicaDraining",
    "ReplicaGone",
    "ReplicaReady",
    "RunDropped",
    "RunEnded",
    "RunRetried",
    "RunSubmitted",
    "StepsTimed",
    "Tick",
]


@immutable
class RunSubmitted:
    """A run, or a body of a map or loop of a run, was submitted."""

    plan: RunPlan


@immutable
class CallRunnable:
    """All inputs of a call are there; also said again when an attempt was lost or is to be repeated."""

    call_id: str


@immutable
class CallWithdrawn:
    """A call is not to run as things stand; it may become runnable again."""

    call_id: str


@immutable
class CallRetried:
    """A user wants a call that has failed tried again, which begins anew when it becomes runnable."""

    call_id: str


@immutable
class CallDropped:
    """Nobody wants a call any more."""

    call_id: str


@immutable
class RunEnded:
    """The result of a run is there, or will never be."""

    run_id: str
    state: Literal["finished", "failed", "rejected", "cancelled"]
    reason: str = ""


@immutable
class RunRetried:
    """A user wants a run tried again that has failed, was rejected or refused: it goes on, and ends once more."""

    run_id: str


@immutable
class RunDropped:
    """Nobody holds the result of a run any more; its record goes to the history."""

    run_id: str


@immutable
class ReplicaReady:
    """A replica serves."""

    replica: Replica
    draining: bool = False  # it takes no calls yet; of one that serves on as it did, this says nothing


@immutable
class ReplicaGone:
    """A replica and every attempt on it are lost."""

    replica_id: str
    reason: str = "its worker is gone"


@immutable
class ReplicaDraining:
    """A replica takes no new calls (or does again, with ``draining=False``)."""

    replica_id: str
    draining: bool = True


@immutable
class ModelAbandoned:
    """No replica of a model will come as things stand, and why; an empty reason takes that back."""

    model: str
    reason: str


@immutable
class Tick:
    """`Machine.wake_at` has come."""


Event: TypeAlias = (
    RunSubmitted
    | CallRunnable
    | CallWithdrawn
    | CallRetried
    | CallDropped
    | RunEnded
    | RunRetried
    | RunDropped
    | ReplicaReady
    | ReplicaGone
    | ReplicaDraining
    | ModelAbandoned
    | Branched
    | FirstToken
    | AttemptEnded
    | Overdue
    | StepsTimed
    | Tick
)
