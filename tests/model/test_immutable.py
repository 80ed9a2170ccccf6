"""Values that are made fast: equal, hashable, and the same after a journey."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from dask_fmware.model.plan import Guard, Objective, PlannedNode, RunPlan
from dask_fmware.runtime.events import AttemptEnded, CallRunnable, Tick

PLAN = RunPlan(
    "r", "w", (PlannedNode("a", "r/a", model="m", guards=(Guard("s", 1),)),), "r/a", Objective(ttft_s=1.0), priority=3
)


@pytest.mark.parametrize("value", [Tick(), CallRunnable("r/a"), PLAN, AttemptEnded("r/a", 1, "finished", 10, 20)])
def test_a_value_survives_a_journey(value: object) -> None:
    made = pickle.loads(pickle.dumps(value))
    assert made == value
    assert hash(made) == hash(value)
    assert type(made) is type(value)


def test_two_nodes_of_a_run_are_never_one_task() -> None:
    with pytest.raises(ValueError, match=r"run 'r': 2 of its nodes have the key 'r/a'"):
        replace(PLAN, nodes=(*PLAN.nodes, PlannedNode("b", "r/a", model="m")))


def test_another_value_is_another_object() -> None:
    assert replace(PLAN, priority=4) != PLAN
    assert PLAN.priority == 3
    assert len({PLAN, replace(PLAN), replace(PLAN, priority=4)}) == 2


def test_a_value_has_no_room_for_more() -> None:
    with pytest.raises(AttributeError):
        CallRunnable("r/a").more = 1  # type: ignore[attr-defined]
