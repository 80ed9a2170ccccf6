"""Two models, one card: calls are not held for good beside an idle replica."""

from __future__ import annotations

from dask_fmware.provisioning import ModelLoad, Plan, Planner
from dask_fmware.spec.provisioning import Bounds, Provisioning
from tests.provisioning.builders import flow, inventory, ready, seen


def planner(**more: object) -> Planner:
    options = Provisioning.model_validate({"idle_s": 300, "cool_down_s": 0, **more})
    return Planner(inventory(cards=1, models=("a", "b"), load_s=10.0), options)


def look(plans: Planner, now: float, *, a: ModelLoad, state: str = "ready") -> Plan:
    """Few calls for both models come all the time; a call of `b` is held."""
    flows = flow(0.05, model="a"), flow(0.01, model="b")
    have = ready("a-0", model="a", state=state)
    return plans.plan(seen(*flows, replicas=(have,), a=a, b=ModelLoad(held=1, last_call=0.0)), now)


def test_calls_that_have_waited_as_long_as_loading_there_and_back_take_the_card_of_an_idle_replica() -> None:
    plans, idle = planner(), ModelLoad(last_call=0.0)
    assert not look(plans, 0.0, a=idle).steps
    assert not look(plans, 19.0, a=idle).steps
    [step] = look(plans, 20.0, a=idle).steps
    assert (step.kind, step.model, step.replica) == ("swap", "b", "a-0")
    assert "1 calls have waited 20 s for a card" in step.reason


def test_a_replica_that_serves_is_left_alone() -> None:
    plans = planner()
    look(plans, 0.0, a=ModelLoad(running=1))
    assert not look(plans, 200.0, a=ModelLoad(running=1)).steps
    assert [step.kind for step in look(plans, 201.0, a=ModelLoad(last_call=200.0)).steps] == ["swap"]


def test_a_card_that_was_promised_is_not_taken_back_by_a_call_that_comes_meanwhile() -> None:
    plans = planner()
    look(plans, 0.0, a=ModelLoad(last_call=0.0))
    look(plans, 30.0, a=ModelLoad(last_call=0.0))
    drained = look(plans, 31.0, a=ModelLoad(held=1, last_call=31.0), state="draining")
    assert drained.desired == {("b", "slow"): 1}
    assert [step.kind for step in drained.steps] == ["stop"]


def test_a_kept_minimum_is_not_taken() -> None:
    plans = planner(models={"a": Bounds(min_replicas=1)})
    look(plans, 0.0, a=ModelLoad(last_call=0.0))
    assert not look(plans, 200.0, a=ModelLoad(last_call=0.0)).steps


def test_a_model_that_cannot_start_is_given_no_card() -> None:
    plans = planner(retry_s=1000, most_retry_s=1000)
    failed = ready("b-0", model="b", state="failed", error="no memory")
    loads = {"a": ModelLoad(last_call=0.0), "b": ModelLoad(held=1)}
    for now in (0.0, 100.0, 200.0):
        have = ready("a-0", model="a")
        plan = plans.plan(seen(flow(0.05, model="a"), replicas=(have, failed), **loads), now)
        assert [step.replica for step in plan.steps] == ["b-0"]
