"""The runtime machine: events in, actions out. Pure; floor 2.

The scheduler plugin feeds it what Dask and the workers report and performs what it answers; the
simulator does the same in virtual time.

`machine` is the door, `run_life` accepts and ends runs, `dispatching` decides which of their calls start where, by what
`foresight` tells of what is to come. `runs` and `replicas` are the books of both, `learning` is what finished calls
said, and `contract` checks from outside.
"""

from dask_fmware.runtime.actions import Action, Assign, Fail, Hold, Move, Refuse, Skip
from dask_fmware.runtime.events import (
    AttemptEnded,
    Branched,
    CallDropped,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Event,
    FirstToken,
    ModelAbandoned,
    Overdue,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
    StepsTimed,
    Tick,
)
from dask_fmware.runtime.machine import Machine
from dask_fmware.runtime.observer import Observer
from dask_fmware.runtime.runs.admission import ModelLimits

__all__ = [
    "Action",
    "Assign",
    "AttemptEnded",
    "Branched",
    "CallDropped",
    "CallRetried",
    "CallRunnable",
    "CallWithdrawn",
    "Event",
    "Fail",
    "FirstToken",
    "Hold",
    "Machine",
    "ModelAbandoned",
    "ModelLimits",
    "Move",
    "Observer",
    "Overdue",
    "Refuse",
    "ReplicaDraining",
    "ReplicaGone",
    "ReplicaReady",
    "RunDropped",
    "RunEnded",
    "RunRetried",
    "RunSubmitted",
    "Skip",
    "StepsTimed",
    "Tick",
]
