"""Short ways to write replicas, plans and machines in tests."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from dask_fmware.model.plan import Guard, Objective, PlannedNode, RunPlan
from dask_fmware.model.replica import Replica
from dask_fmware.policy import POLICIES, Policy, create_policy
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    CallRunnable,
    Event,
    Machine,
    ModelLimits,
    ReplicaReady,
    RunSubmitted,
)
from dask_fmware.spec.deployment import Latency

POLICY_NAMES = sorted(POLICIES)
every_policy = pytest.mark.parametrize("policy", POLICY_NAMES)
LATENCY = Latency(first_token_s=0.1, prompt_token_s=0.001, output_token_s=0.01)


def replica(
    name: str,
    model: str = "small",
    *,
    slots: int = 1,
    card: str = "",
    replica_id: str = "",
    latency: Latency = LATENCY,
) -> Replica:
    return Replica(
        replica_id=replica_id or f"tcp://{name}",
        name=name,
        model=model,
        accelerator="cpu",
        card=card or f"{name}/0",
        slots=slots,
        context_tokens=1000,
        longest_token_bytes=4,
        engine="words",
        engine_version="1",
        latency=latency,
    )


def node(
    key: str,
    model: str | None = "small",
    *,
    after: tuple[str, ...] = (),
    guards: tuple[Guard, ...] = (),
    answers: bool = False,
    max_tokens: int = 10,
    prompt_bytes: int = 40,
) -> PlannedNode:
    """A planned node whose name is the last part of its key."""
    return PlannedNode(
        name=key.rpartition("/")[2],
        key=key,
        after=after,
        model=model,
        max_tokens=max_tokens,
        prompt_bytes=prompt_bytes,
        guards=guards,
        answers=answers,
    )


def plan(
    run_id: str,
    nodes: Iterable[PlannedNode] = (),
    *,
    objective: Objective | None = None,
    part_of: str | None = None,
    priority: int = 0,
    decided: tuple[tuple[str, int | None], ...] = (),
) -> RunPlan:
    """A plan; without nodes it has one call of model 'small', whose key is the run's id."""
    nodes = tuple(nodes) or (node(run_id, answers=True),)
    return RunPlan(
        run_id=run_id,
        workflow="rag",
        nodes=nodes,
        output=nodes[-1].key,
        objective=objective,
        part_of=part_of,
        priority=priority,
        decided=decided,
    )


class Driver:
    """A machine with a clock that only moves when told."""

    def __init__(self, policy: str | Policy = "least_outstanding", *, seed: int = 0, **options: object) -> None:
        models = {"small": ModelLimits(1000, 4), "large": ModelLimits(4000, 4)}
        made = create_policy(policy, random.Random(seed).random) if isinstance(policy, str) else policy
        self.machine = Machine(made, **{"models": models, **options})  # type: ignore[arg-type]
        self.now = 0.0

    def tell(self, *events: Event, at: float | None = None) -> list[Action]:
        """Hand over events and return what the machine wants done."""
        if at is not None:
            self.now = at
        return [action for event in events for action in self.machine.handle(event, self.now)]

    def ready(self, *replicas: Replica) -> list[Action]:
        return self.tell(*(ReplicaReady(r) for r in replicas))

    def submit(self, *plans: RunPlan) -> list[Action]:
        return self.tell(*(RunSubmitted(p) for p in plans))

    def runnable(self, *call_ids: str) -> list[Action]:
        return self.tell(*(CallRunnable(call_id) for call_id in call_ids))

    def start(self, *call_ids: str) -> list[Action]:
        """Submit runs of one call each, which are runnable at once."""
        return [action for c in call_ids for action in (*self.submit(plan(c)), *self.runnable(c))]

    def end(self, call_id: str, outcome: str = "finished", attempt: int = 1, **told: object) -> list[Action]:
        return self.tell(AttemptEnded(call_id, attempt, outcome, **told))  # type: ignore[arg-type]

    def call(self, call_id: str):
        return self.machine.runs.calls[call_id].report

    def state(self, call_id: str) -> str:
        return self.call(call_id).state


def assigned(actions: Iterable[Action]) -> list[tuple[str, str, int]]:
    """Calls, replica ids and attempts of the assignments among actions."""
    return [(a.call_id, a.replica_id, a.attempt) for a in actions if isinstance(a, Assign)]
