"""Policies that raise, or answer what is no answer: their calls fail with that, none waits for ever."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest

from dask_fmware.errors import PolicyFaultError
from dask_fmware.policy import Bind, Park, Wait
from dask_fmware.policy.outlook import Plan, Start
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.runtime import Action, Fail, ReplicaGone, Tick
from tests.runtime.builders import Driver, assigned, replica

RAISES = "raises"


class Faulty(RoundRobin):
    """Whose `method` gives a wrong answer, or raises, for the call or replica that is called `bad`."""

    name = "faulty"

    def __init__(self, method: str, answer: Any, bad: str = "") -> None:
        super().__init__()
        self.bad = bad
        self._sound = getattr(super(), method, None)
        self._answer = answer
        setattr(self, method, self._unsound)

    def _unsound(self, *asked: Any) -> Any:
        about = getattr(asked[0], "node", None) or getattr(asked[0], "name", None) if asked else None
        if self.bad and about != self.bad:
            return self._sound(*asked) if self._sound is not None else None
        if self._answer == RAISES:
            raise ZeroDivisionError("no replicas to share")
        return self._answer


class TakesTurns(Faulty):
    def turns(self) -> Any:
        return [()]

    def take_turn(self, call: Any, replicas: Any, now: float) -> Any:
        return None


class Plans(Faulty):
    def plan(self, outlook: Any, now: float) -> Any:
        return None


OF_A_CALL = [
    ("order", RAISES, "order raised ZeroDivisionError: no replicas to share"),
    ("order", None, "order answered None, which is no tuple"),
    ("order", 3.0, "order answered 3.0, which is no tuple"),
    ("order", (nan,), r"order answered (nan,), in which a NaN is no number"),
    ("order", ("late",), "order answered ('late',), in which a str is no number"),
    ("order", (None,), "order answered (None,), in which a NoneType is no number"),
    ("choose", RAISES, "choose raised ZeroDivisionError: no replicas to share"),
    ("choose", None, "choose answered None, which is no Bind, Wait or Park"),
    ("choose", "tcp://a", "choose answered 'tcp://a', which is no Bind, Wait or Park"),
    ("choose", Bind(["tcp://a"], "it is free"), "whose replica_id is a list"),
    ("choose", Bind("tcp://a", None), "whose reason is a NoneType"),
    ("choose", Bind("tcp://a", "it is free", nan), "whose priority is no number"),
    ("choose", Wait("later", until=nan), "whose until is no number"),
    ("choose", Wait("later", until="noon"), "whose until is no number"),
    ("choose", Park("it is late"), "but the call is parked already"),
]
OF_ALL = [
    (Faulty, "rank", RAISES, "rank raised ZeroDivisionError: no replicas to share"),
    (Faulty, "rank", None, "rank answered None, which is no tuple"),
    (Faulty, "rank", (nan,), "rank answered (nan,), in which a NaN is no number"),
    (Faulty, "rank", (None,), "rank answered (None,), in which a NoneType is no number or text"),
    (TakesTurns, "turns", RAISES, "turns raised ZeroDivisionError: no replicas to share"),
    (TakesTurns, "turns", None, "turns raised TypeError: 'NoneType' object is not iterable"),
    (TakesTurns, "turns", [(nan,)], "turns answered (nan,), which is no tuple of numbers"),
    (TakesTurns, "take_turn", RAISES, "take_turn raised ZeroDivisionError: no replicas to share"),
    (TakesTurns, "take_turn", Wait("no"), "which is neither a Bind nor None"),
    (TakesTurns, "take_turn", Bind("tcp://a", "its turn", nan), "whose priority is no number"),
    (Plans, "plan", RAISES, "plan raised ZeroDivisionError: no replicas to share"),
    (Plans, "plan", [], "plan answered [], which is neither a Plan nor None"),
    (Plans, "plan", Plan(wake_at=nan), "whose wake_at is no number"),
    (Plans, "plan", Plan((Start("x", "tcp://a", "first", nan),)), "whose starts are not all sound"),
]


def failed(actions: list[Action]) -> dict[str, str]:
    assert all(isinstance(action.error, PolicyFaultError) for action in actions if isinstance(action, Fail))
    return {action.call_id: action.reason for action in actions if isinstance(action, Fail)}


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("method", "answer", "why"), OF_A_CALL)
def test_a_call_that_gets_no_sound_answer_fails_with_that_and_no_other(
    method: str, answer: Any, why: str, held: bool
) -> None:
    d = Driver(Faulty(method, answer, "bad"))
    actions = [] if held else d.ready(replica("a", slots=2))
    actions += [action for call_id in ("good1", "bad", "good2") for action in d.start(call_id)]
    actions += d.ready(replica("a", slots=2)) if held else []
    assert [a[0] for a in assigned(actions)] == ["good1", "good2"]
    ((call_id, reason),) = failed(actions).items()
    assert call_id == "bad"
    assert reason.startswith("workflow 'rag', node 'bad': policy 'faulty': ")
    assert why in reason
    assert d.machine.held == 0
    assert d.state("bad") == "failed"


@pytest.mark.parametrize(("made", "method", "answer", "why"), OF_ALL)
def test_what_is_wrong_for_no_single_call_fails_those_that_wait_and_no_later_one(
    made: Callable[..., Faulty], method: str, answer: Any, why: str
) -> None:
    policy = made(method, answer)
    d = Driver(policy)
    reasons = failed(d.start("x", "y") + d.ready(replica("a", slots=2)))
    assert reasons
    assert all(f"policy 'faulty': {method} " in reason and why in reason for reason in reasons.values())
    assert d.machine.held == 0  # each has failed or runs
    policy.bad = "nobody"
    d.tell(ReplicaGone("tcp://a"))
    d.ready(replica("b", slots=4))
    assert assigned(d.start("z")) == [("z", "tcp://b", 1)]


@pytest.mark.parametrize("method", ["order", "rank", "choose"])
def test_a_policy_that_exits_ends_its_call_and_not_the_process(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RoundRobin()
    monkeypatch.setattr(policy, method, lambda *asked: sys.exit(3))
    d = Driver(policy)
    d.ready(replica("a"))
    assert f"policy 'round_robin': {method} raised SystemExit: 3" in failed(d.start("x"))["x"]


def test_a_call_that_waits_in_the_queue_of_a_replica_fails_when_its_place_is_asked_for_there() -> None:
    policy = Faulty("order", (nan,), "nobody")
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("runs")
    policy.bad = "bad"
    assert list(failed(d.start("bad"))) == ["bad"]
    assert assigned(d.start("next")) == []
    assert assigned(d.end("runs")) == [("next", "tcp://a", 1)]


def test_calls_that_lose_their_replica_fail_if_they_have_no_place_any_more() -> None:
    policy = Faulty("order", RAISES, "nobody")
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("runs", "waits")
    policy.bad = "waits"
    assert list(failed(d.tell(ReplicaGone("tcp://a")))) == ["waits"]
    assert d.machine.held == 0


def test_one_replica_without_a_rank_fails_the_calls_of_its_model_until_it_is_gone() -> None:
    d = Driver(Faulty("rank", (nan,), "b"))
    d.ready(replica("a"), replica("b"), replica("c", "large"))
    assert "rank answered (nan,)" in failed(d.start("x"))["x"]
    d.tell(ReplicaGone("tcp://b"))
    assert assigned(d.start("y")) == [("y", "tcp://a", 1)]


@pytest.mark.parametrize(("until", "wakes"), [(-inf, 5.001), (4.0, 5.001), (5.0, 5.001), (5.5, 5.5), (inf, None)])
def test_a_call_that_waits_for_a_time_that_is_over_is_looked_at_again_a_moment_later(
    until: float, wakes: float | None
) -> None:
    policy = Faulty("choose", Wait("not yet", until=until), "x")
    d = Driver(policy)
    d.ready(replica("a"))
    d.tell(at=5.0)
    d.start("x")
    assert d.machine.wake_at == (None if wakes is None else pytest.approx(wakes))
    policy.bad = "nobody"
    assert assigned(d.tell(Tick(), at=6.0)) == [("x", "tcp://a", 1)]
