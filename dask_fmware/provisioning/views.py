"""What the planner sees and what it says: immutable values, which travel as plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Literal, Self, TypeAlias

__all__ = [
    "ModelLoad",
    "NodeDemand",
    "Observation",
    "Plan",
    "ReplicaNow",
    "ReplicaState",
    "Step",
    "StepKind",
    "WorkflowDemand",
]

ReplicaState: TypeAlias = Literal["starting", "ready", "shut", "draining", "failed", "stopping"]
StepKind: TypeAlias = Literal["start", "swap", "drain", "resume", "stop"]


@dataclass(frozen=True, slots=True)
class NodeDemand:
    """One node of a workflow, as it is on average."""

    name: str
    model: str | None  # None: plain code
    after: tuple[str, ...] = ()
    calls: float = 1.0  # of a run: odds of its branch, times what a map or loop runs
    in_turn: float = 1.0  # of these, one after the other
    prompt_tokens: float = 1.0
    output_tokens: float = 1.0
    seconds: float = 0.0  # of plain code, before the call or as the node
    answers: bool = False


@dataclass(frozen=True, slots=True)
class WorkflowDemand:
    """How often a workflow is asked for with one kind of objective, and by when it must answer."""

    name: str  # of the workflow; where it is asked for with several kinds of objectives, no two have the same
    nodes: tuple[NodeDemand, ...]
    rate: float  # runs a second
    slo_s: float = inf  # to the first token of nodes that answer, to the end of all others
    trend: float = 0.0  # runs a second, for each second; 0 where no trend is certain
    burstiness: float = 1.0  # variance over mean of arrivals; 1: Poisson
    end_s: float = inf  # to the end of all nodes, beside `slo_s`

    @property
    def models(self) -> frozenset[str]:
        """Models of its nodes."""
        return frozenset(node.model for node in self.nodes if node.model is not None)


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """What is going on at one model."""

    held: int = 0  # calls that wait, centrally or at a replica
    running: int = 0
    ended: int = 0  # runs with an SLO that ended in the last minute
    missed: int = 0  # of these, past their SLO
    exhausted: int = 0  # calls that wait and can no longer make it
    last_call: float = -inf  # when one was last there: came, ran or ended
    held_in_background: int = 0  # of `held`, calls of runs without an objective
    running_in_background: int = 0

    @property
    def held_urgent(self) -> int:
        """Calls that wait, of runs with an objective."""
        return self.held - self.held_in_background

    @property
    def running_urgent(self) -> int:
        """Calls that run, of runs with an objective."""
        return self.running - self.running_in_background


@dataclass(frozen=True, slots=True)
class ReplicaNow:
    """A replica that was asked for."""

    name: str
    model: str
    accelerator: str
    state: ReplicaState
    since: float  # when it came into this state
    running: int = 0
    waiting: int = 0
    idle_since: float | None = None  # None: it has calls, or is not there
    load_s: float = 0.0  # what its engine took to load; 0: not known
    error: str = ""
    is_hopeless: bool = False  # it failed in a way that no retry mends
    is_ours: bool = True  # else someone else started it or uses it: it is not stopped
    takes_calls: bool = True  # else it is on leave or paused: it has its place, and does not count
    card: str = ""  # replicas with equal cards share one; empty: not known

    @property
    def has_loaded(self) -> bool:
        """Whether its engine is there and may stay; one that is shut has no room until its rate limit is over."""
        return self.state in ("ready", "shut")

    @property
    def has_card(self) -> bool:
        """Whether its card is its own until it is drained."""
        return self.state == "starting" or self.has_loaded

    @property
    def counts(self) -> bool:
        """Whether it serves, or will without a further step."""
        return self.has_card and self.takes_calls

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.state == "ready" and self.takes_calls


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a plan is made from."""

    workflows: tuple[WorkflowDemand, ...] = ()
    models: Mapping[str, ModelLoad] = field(default_factory=dict)
    replicas: tuple[ReplicaNow, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    kind: StepKind
    model: str
    accelerator: str
    reason: str
    replica: str = ""  # which one; empty for a start. A swap stops it and starts `model` on its card


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be there, and what to do about it."""

    at: float
    desired: Mapping[tuple[str, str], int]  # (model, accelerator) -> replicas
    steps: tuple[Step, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)  # model -> why so many
    cost_per_hour: float = 0.0
    attainment: Mapping[str, float] = field(default_factory=dict)  # model -> expected share of calls in time

    def to_wire(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "at": self.at,
            "desired": [[model, accelerator, count] for (model, accelerator), count in self.desired.items()],
            "steps": [asdict(step) for step in self.steps],
            "reasons": dict(self.reasons),
            "cost_per_hour": self.cost_per_hour,
            "attainment": dict(self.attainment),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read what `to_wire` made."""
        desired = {(model, accelerator): count for model, accelerator, count in wire["desired"]}
        steps = tuple(Step(**step) for step in wire["steps"])
        return cls(wire["at"], desired, steps, wire["reasons"], wire["cost_per_hour"], wire["attainment"])
