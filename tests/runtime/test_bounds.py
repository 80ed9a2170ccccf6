"""What a run is due with: its first token, or its end, whichever bound is the tighter one."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.runtime import Fail, Hold
from dask_fmware.spec.deployment import Latency
from tests.runtime.builders import Driver, assigned, node, plan, replica

QUICK = Latency(first_token_s=0.1, prompt_token_s=0.0, output_token_s=0.01)
SLOW = Latency(first_token_s=0.1, prompt_token_s=0.0, output_token_s=0.1)
TOKENS = 50  # 0.6 s on the quick replica, 5.1 s on the slow one


@pytest.mark.parametrize(
    ("objective", "answers", "deadline", "own_s"),
    [
        (Objective(ttft_s=2.0), True, 2.0, 0.1),
        (Objective(e2e_s=2.0), False, 2.0, 0.6),
        (Objective(finish_by=2.0), False, 2.0, 0.6),
        (Objective(ttft_s=2.0, e2e_s=20.0), True, 2.0, 0.1),
        (Objective(ttft_s=2.0, e2e_s=2.4), False, 2.4, 0.6),  # the answer takes half a second from its first token
        (Objective(ttft_s=2.0, e2e_s=2.6), True, 2.0, 0.1),
        (Objective(ttft_s=2.0, e2e_s=1.0), False, 1.0, 0.6),
    ],
)
def test_a_run_is_due_with_what_is_tighter(objective: Objective, answers: bool, deadline: float, own_s: float) -> None:
    d = Driver("slack")
    d.ready(replica("a", latency=QUICK))
    d.submit(plan("r", [node("r/a", answers=True, max_tokens=TOKENS)], objective=objective))
    view = d.machine.view(d.machine.runs.calls["r/a"])
    assert (view.answers, view.deadline, view.after_s) == (answers, deadline, 0.0)
    assert view.own_s == pytest.approx(own_s)


def test_what_follows_is_counted_to_the_end_of_an_answer_that_is_due_with_it() -> None:
    d = Driver("slack")
    d.ready(replica("a", latency=QUICK))
    for run, objective, after_s in (("t", Objective(ttft_s=9.0), 0.1), ("e", Objective(e2e_s=9.0), 0.6)):
        nodes = [node(f"{run}/a"), node(f"{run}/b", after=("a",), answers=True, max_tokens=TOKENS)]
        d.submit(plan(run, nodes, objective=objective))
        assert d.machine.view(d.machine.runs.calls[f"{run}/a"]).after_s == pytest.approx(after_s)


@pytest.mark.parametrize(("policy", "slots"), [("slack", 1), ("slack", 2), ("greedy", 1)])
def test_an_answer_that_is_due_with_its_end_waits_for_the_replica_where_it_ends_in_time(
    policy: str, slots: int
) -> None:
    """The slow replica is free, and would give the first token sooner."""
    d = Driver(policy)
    d.ready(replica("quick", latency=QUICK, slots=slots), replica("slow", latency=SLOW, slots=slots))
    for n in range(slots):
        busy = f"busy{n}"
        d.submit(plan(busy, [node(busy, answers=True, max_tokens=TOKENS)], objective=Objective(ttft_s=0.15)))
        assert assigned(d.runnable(busy))[0][1] == "tcp://quick"
    d.submit(plan("r", [node("r", answers=True, max_tokens=TOKENS)], objective=Objective(e2e_s=2.0)))
    actions = d.runnable("r")
    assert [type(action) for action in actions] == [Hold]
    d.now += 0.6
    assert ("r", "tcp://quick", 1) in assigned(d.end("busy0", output_tokens=TOKENS, prompt_tokens=1))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_run_that_asks_to_be_rejected_is_when_not_even_its_first_token_can_come_in_time(slots: int) -> None:
    """Its answer takes longer than it has if it has its usual length, which it need not have."""
    d = Driver("slack")
    d.ready(replica("slow", latency=SLOW, slots=slots))
    objective = Objective(e2e_s=2.0, on_miss="reject")
    d.submit(plan("first", [node("first", answers=True, max_tokens=TOKENS)], objective=objective))
    assert assigned(d.runnable("first")) == [("first", "tcp://slow", 1)]
    for n in range(slots - 1):
        d.submit(plan(f"busy{n}", [node(f"busy{n}", answers=True)], objective=Objective(ttft_s=9.0)))
        d.runnable(f"busy{n}")
    d.submit(plan("r", [node("r", answers=True, max_tokens=TOKENS)], objective=objective))
    assert [type(action) for action in d.runnable("r")] == [Hold]
    d.now = 1.95
    (fail,) = d.end("first", output_tokens=18, prompt_tokens=1)
    assert isinstance(fail, Fail)
    assert "on_miss='reject'" in fail.reason


def test_calls_that_took_far_longer_than_expected_do_not_have_all_that_come_rejected_on_idle_replicas() -> None:
    """A cold engine, say: what it has taught by one call is unlearnt only if others are served."""
    d = Driver("slack")
    d.ready(replica("x", slots=4))

    def submit(run: str) -> None:
        nodes = [node(f"{run}/a", max_tokens=10), node(f"{run}/b", after=("a",), answers=True, max_tokens=10)]
        d.submit(plan(run, nodes, objective=Objective(e2e_s=2.0, on_miss="reject")))
        d.runnable(f"{run}/a")

    submit("r1")
    d.now = 3.0
    d.end("r1/a", output_tokens=10, prompt_tokens=1)
    submit("r2")
    assert d.state("r2/a") == "running"
    d.now = 3.2
    d.end("r2/a", output_tokens=10, prompt_tokens=1)
    assert d.machine.report("r2").state == "running"
