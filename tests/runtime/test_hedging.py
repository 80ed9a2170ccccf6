"""Which calls without a token are tried elsewhere, and which are let be."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.model.report import AttemptReport
from dask_fmware.runtime import Action, Assign, CallRunnable, FirstToken, Move, Overdue, ReplicaDraining, StepsTimed
from dask_fmware.runtime.contract import Contract
from tests.runtime.builders import Driver, node, plan, replica

EXPECTED_S = 0.11  # to the first token: 0.1 and 10 tokens of prompt at 1 ms


class Cluster(Driver):
    """One busy replica and others, and a call on the first that has no token."""

    def __init__(self, others: int = 1, *, slots: int = 4, ttft_s: float | None = 1.0, **options: object) -> None:
        super().__init__("round_robin", **{"hedge_budget": 1.0, **options})
        self.contract = Contract(3)
        self.machine.observers.append(self.contract)
        self.ready(*(replica(f"r{n}", slots=slots) for n in range(1 + others)))
        self.ttft_s = ttft_s

    def begin(self, call_id: str = "a", *, answers: bool = True) -> Assign:
        objective = Objective(ttft_s=self.ttft_s) if self.ttft_s is not None else None
        self.submit(plan(call_id, [node(call_id, answers=answers)], objective=objective))
        (assign,) = self.runnable(call_id)
        assert isinstance(assign, Assign)
        return assign

    def overdue(self, at: float, call_id: str = "a", attempt: int = 1) -> list[Action]:
        return self.tell(Overdue(call_id, attempt), at=at)


def is_moved(actions: list[Action]) -> bool:
    assert all(isinstance(action, Move) for action in actions)
    return bool(actions)


def test_a_call_that_would_miss_and_can_be_in_time_elsewhere_is_moved() -> None:
    d = Cluster()
    assign = d.begin()
    assert assign.overdue_s == pytest.approx(3 * EXPECTED_S)
    (move,) = d.overdue(0.7)  # as late again would be 1.29 s, and elsewhere it takes 0.11 s
    assert move == Move("a", assign.replica_id, 1, move.reason)
    assert move.reason.startswith("no token for 0.700 s, 0.110 s were expected; in time elsewhere by 0.190 s")
    assert d.end("a", "retry", error="no token in time") == []
    (again,) = d.runnable("a")
    assert isinstance(again, Assign)
    assert (again.attempt, again.replica_id != assign.replica_id) == (2, True)
    assert again.overdue_s == 0.0, "the last attempt is kept for what fails"
    d.end("a", attempt=2)
    attempts: list[AttemptReport] = d.call("a").attempts
    assert [attempt.outcome for attempt in attempts] == ["retry", "finished"]
    assert not d.contract.breaches
    assert d.contract.counts["attempts moved"] == 1


def test_it_waits_while_it_can_be_in_time_where_it_is_and_elsewhere_later() -> None:
    d = Cluster(ttft_s=10.0)
    d.begin()
    assert not is_moved(d.overdue(0.4))
    assert not is_moved(d.overdue(2.0))
    assert is_moved(d.overdue(7.0)), "the next time that it is said, it would be too late"


@pytest.mark.parametrize(
    "why",
    [
        pytest.param({"others": 0}, id="there is no other replica"),
        pytest.param({"ttft_s": None}, id="it has no objective"),
        pytest.param({"ttft_s": 0.75}, id="it is lost anyway"),
        pytest.param({"unhedged": ("small",)}, id="its model has effects"),
        pytest.param({"hedge_budget": 0.0}, id="nothing is to be spent"),
        pytest.param({"hedge_budget": 0.5}, id="it is more than what may be spent"),
        pytest.param({"max_attempts": 2}, id="its next attempt would be the last"),
    ],
)
def test_it_is_let_be(why: dict[str, object]) -> None:
    d = Cluster(**why)  # type: ignore[arg-type]
    d.begin()
    assert not is_moved(d.overdue(0.7))


def test_a_call_whose_other_replica_is_full_or_drains_is_let_be() -> None:
    d = Cluster(slots=1)
    d.begin()
    d.begin("b")
    assert not is_moved(d.overdue(0.7))
    d.end("b")
    d.tell(ReplicaDraining("tcp://r1"))
    assert not is_moved(d.overdue(0.7))
    d.tell(ReplicaDraining("tcp://r1", False))
    assert is_moved(d.overdue(0.7))


@pytest.mark.parametrize("answers", [True, False])
def test_an_attempt_that_has_tokens_or_is_another_one_is_let_be(answers: bool) -> None:
    d = Cluster(ttft_s=1.2)
    assign = d.begin(answers=answers)
    assert not is_moved(d.overdue(0.7, attempt=2))
    assert not is_moved(d.overdue(0.7, "nobody"))
    token = FirstToken("a", 1, 0.6) if answers else StepsTimed(assign.replica_id, tokens=(("a", 1, 2),))
    d.tell(token)
    assert not is_moved(d.overdue(0.8))


def test_it_is_said_once() -> None:
    d = Cluster()
    d.begin()
    assert is_moved(d.overdue(0.7))
    assert not is_moved(d.overdue(0.75))


def test_of_a_silent_replica_no_more_are_moved_in_a_row_than_it_has_slots() -> None:
    """What comes to it after that finds out that its engine hangs."""
    d = Cluster(slots=2)
    moved = []
    for n in range(6):
        call_id, d.now = f"{n}", 10.0 * n
        assign = d.begin(call_id)
        if assign.replica_id == "tcp://r0":
            moved.append(is_moved(d.overdue(d.now + 0.7, call_id)))
            d.end(call_id, "aborted")
        else:
            d.end(call_id)
    assert moved == [True, True, False]
    d.now, call_id = 60.0, "last"
    if d.begin(call_id).replica_id != "tcp://r0":
        call_id = "one more"
        d.begin(call_id)
    d.tell(FirstToken(call_id, 1, 0.1))
    d.end(call_id)
    d.begin("after")
    d.begin("it")  # one of each replica
    on = next(c for c in ("after", "it") if d.call(c).attempts[0].replica_id == "tcp://r0")
    assert is_moved(d.overdue(60.7, on))


def test_the_budget_is_of_the_tokens_of_the_latest_calls() -> None:
    d = Cluster(others=3, slots=100, hedge_budget=0.05)
    for n in range(39):
        d.begin(f"{n}")
    moved = [n for n in range(39) if is_moved(d.overdue(0.7, f"{n}"))]
    assert len(moved) == 1, "of 39 calls one may be moved, as two would be more than 5 %"


def test_the_checker_finds_moves_that_break_the_contract() -> None:
    d = Cluster()
    d.begin()
    d.tell(FirstToken("a", 1, 0.1))
    observed = [Move("a", "tcp://r0", 1, "why"), Move("a", "tcp://r0", 7, "why")]
    d.contract.observe(CallRunnable("nobody"), observed, 1.0)
    assert [breach.what for breach in d.contract.breaches] == [
        "attempt 1 of call 'a' was moved, which has tokens",
        "attempt 7 of call 'a' was moved, which does not run",
    ]
