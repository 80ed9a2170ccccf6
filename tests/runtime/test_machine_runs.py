"""Runs: who is refused, how they end, and what their objective asks for."""

from __future__ import annotations

import pytest

from dask_fmware.errors import CapacityError, DeadlineRejectedError, RuntimeFaultError, UnknownModelError
from dask_fmware.model.plan import Objective, PlannedNode, RunPlan
from dask_fmware.runtime import (
    AttemptEnded,
    CallRetried,
    CallRunnable,
    Fail,
    FirstToken,
    Hold,
    ReplicaGone,
    RunDropped,
    RunEnded,
    RunRetried,
)
from tests.runtime.builders import Driver, assigned, node, plan, replica
from tests.runtime.counting import lines_of


def test_a_run_of_an_unknown_model_is_refused() -> None:
    d = Driver()
    (refuse,) = d.submit(plan("r", [node("r/a", "llama")]))
    assert isinstance(refuse.error, UnknownModelError)  # type: ignore[union-attr]
    assert "(hosted: large, small)" in refuse.reason
    report = d.machine.report("r")
    assert report is not None
    assert (report.state, report.reason, report.finished_at) == ("refused", refuse.reason, 0.0)
    d.tell(RunEnded("r", "failed"))
    assert report.state == "refused"


def test_a_model_is_known_if_a_replica_hosts_it() -> None:
    d = Driver()
    d.ready(replica("a", "extra"))
    assert d.submit(plan("r", [node("r/a", "extra", prompt_bytes=400)])) == []
    assert assigned(d.runnable("r/a")) == [("r/a", "tcp://a", 1)]
    d.tell(ReplicaGone("tcp://a"))
    (refuse,) = d.submit(plan("s", [node("s/a", "extra")]))
    assert "no replica hosts model 'extra'" in refuse.reason
    assert [type(a) for a in d.runnable("r/a")] == [Hold]


def test_runs_are_refused_while_too_many_calls_wait() -> None:
    d = Driver(max_held=2)
    d.start("x", "y")
    (refuse,) = d.submit(plan("z"))
    assert isinstance(refuse.error, CapacityError)  # type: ignore[union-attr]
    assert d.submit(plan("x[0]", [node("x[0]/a")], part_of="x")) == []


def test_a_refused_body_leaves_it_to_its_run_to_fail() -> None:
    d = Driver()
    d.start("r")
    (refuse,) = d.submit(plan("r[0]", [node("r[0]/a", "llama")], part_of="r"))
    assert refuse.run_id == "r[0]"  # type: ignore[union-attr]
    assert d.machine.report("r").state == "running"  # type: ignore[union-attr]


def test_a_body_that_comes_after_its_run_was_dropped_is_refused_so_that_nobody_waits_for_it() -> None:
    d = Driver()
    d.start("r")
    d.submit(plan("r[0]", [node("r[0]/a")], part_of="r"))
    assert d.submit(plan("r[0]", [node("r[0]/a")], part_of="r")) == []  # known already
    d.tell(RunDropped("r"))
    (refuse,) = d.submit(plan("r[1]", [node("r[1]/a")], part_of="r"))
    assert (refuse.run_id, type(refuse.error)) == ("r[1]", RuntimeFaultError)  # type: ignore[union-attr]
    assert "came for run 'r', which was dropped" in refuse.reason
    assert not d.machine.runs.calls
    assert len(d.machine.runs) == 0


def test_a_run_that_is_known_is_not_submitted_twice() -> None:
    d = Driver()
    d.start("x")
    assert d.submit(plan("x")) == []
    assert d.state("x") == "held"


def test_a_run_ends_once() -> None:
    d = Driver()
    d.start("x")
    d.tell(RunEnded("x", "failed", "it broke"), at=3.0)
    d.tell(RunEnded("x", "finished"), at=4.0)
    report = d.machine.report("x")
    assert report is not None
    assert (report.state, report.reason, report.finished_at, report.first_token_at) == ("failed", "it broke", 3.0, None)


def test_a_run_that_failed_goes_on_when_it_is_retried_and_ends_once_more() -> None:
    d = Driver(max_attempts=1)
    d.ready(replica("a"))
    d.submit(plan("x", [node("x/a", answers=True)], objective=Objective(e2e_s=5.0)))
    d.runnable("x/a")
    d.end("x/a", "failed", error="it broke")
    d.tell(RunEnded("x", "failed", "it broke"), at=3.0)
    d.tell(RunRetried("x"), CallRetried("x/a"), RunRetried("x"), at=4.0)
    report = d.machine.report("x")
    assert report is not None
    assert (report.state, report.reason, report.finished_at, report.met) == ("running", "", None, None)
    assert report.failures == (("it broke", 3.0, 4.0),)
    d.runnable("x/a")
    d.end("x/a", "finished", 2)
    d.tell(RunEnded("x", "finished"), RunEnded("x", "failed"), RunRetried("x"), at=6.0)
    assert (report.state, report.finished_at, report.met) == ("finished", 6.0, False), "late since its submission"
    assert d.machine.knowledge.nodes.pause_s("rag", "a") < 1.0, (
        "nobody's time before a retry is a pause of the workflow"
    )


def test_a_run_that_was_refused_is_judged_anew_when_it_is_retried() -> None:
    d = Driver()
    (refuse,) = d.submit(plan("x", [node("x/a", "extra", answers=True)], objective=Objective(e2e_s=5.0)))
    assert [again.reason for again in d.tell(RunRetried("x"), at=1.0)] == [refuse.reason], "nothing has changed"
    report = d.machine.report("x")
    assert report is not None
    assert (report.state, report.finished_at, report.failures) == ("refused", 0.0, ())
    d.ready(replica("a", "extra"))
    assert d.tell(RunRetried("x"), RunRetried("x"), at=2.0) == []
    assert (report.state, report.reason, report.finished_at) == ("running", "", None)
    assert report.failures == ((refuse.reason, 0.0, 2.0),)
    assert assigned(d.runnable("x/a")) == [("x/a", "tcp://a", 1)]
    d.end("x/a")
    d.tell(RunEnded("x", "finished"), at=6.0)
    assert (report.state, report.met) == ("finished", False), "late since its submission"


@pytest.mark.parametrize("state", ["finished", "cancelled"])
def test_only_a_run_that_failed_is_opened_by_a_retry(state: str) -> None:
    d = Driver()
    d.start("x")
    d.tell(RunRetried("x"), RunRetried("nobody"), at=1.0)
    d.tell(RunEnded("x", state), RunRetried("x"), RunEnded("x", "failed"), at=2.0)  # type: ignore[arg-type]
    report = d.machine.report("x")
    assert report is not None
    assert (report.state, report.failures) == (state, ())


def test_the_first_token_of_a_run_is_the_last_of_those_that_make_its_answer() -> None:
    d = Driver()
    d.ready(replica("a", slots=9))
    d.submit(plan("r", [node("r/draft"), node("r/a", answers=True), node("r/b", answers=True)]))
    d.runnable("r/draft", "r/a", "r/b")
    for at, call_id in enumerate(("r/draft", "r/a", "r/b"), 1):
        d.tell(FirstToken(call_id, 1, 0.1), at=float(at))
    d.tell(RunEnded("r", "finished"), at=9.0)
    assert d.machine.report("r").first_token_at == 3.0  # type: ignore[union-attr]


def test_a_branch_that_was_not_taken_does_not_count_for_the_first_token() -> None:
    d = Driver()
    d.ready(replica("a", slots=9))
    d.submit(plan("r", [node("r/a", answers=True), node("r/b", answers=True)]))
    d.runnable("r/a", "r/b")
    d.tell(FirstToken("r/a", 1, 0.1), at=1.0)
    d.tell(FirstToken("r/b", 1, 0.1), AttemptEnded("r/b", 1, "skipped"), at=5.0)
    d.tell(RunEnded("r", "finished"), at=9.0)
    assert d.machine.report("r").first_token_at == 1.0  # type: ignore[union-attr]


def test_the_first_token_of_a_run_that_ends_in_plain_code_is_its_completion() -> None:
    d = Driver()
    d.submit(plan("r", [node("r/a"), node("r/code", None, after=("a",))]))
    d.tell(RunEnded("r", "finished"), at=7.0)
    assert d.machine.report("r").first_token_at == 7.0  # type: ignore[union-attr]


@pytest.mark.parametrize(("on_miss", "served"), [("finish", True), ("reject", False)])
def test_a_late_call_is_rejected_only_if_the_user_asked_for_it(on_miss: str, served: bool) -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("x", objective=Objective(ttft_s=2.0, e2e_s=5.0, on_miss=on_miss)))  # type: ignore[arg-type]
    (action,) = d.tell(CallRunnable("x"), at=2.5)
    if served:
        assert assigned([action])
    else:
        assert isinstance(action, Fail)
        assert isinstance(action.error, DeadlineRejectedError)
        assert "0.500 s past the deadline" in action.reason
        assert d.machine.runs.calls["x"].report.state == "rejected"


@pytest.mark.parametrize("policy", ["least_outstanding", "slack"])
def test_a_result_that_is_lost_after_the_deadline_is_made_again_though_late_runs_are_rejected(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.submit(plan("x", objective=Objective(e2e_s=5.0, on_miss="reject")))
    d.runnable("x")
    d.end("x")
    d.tell(RunEnded("x", "finished"))
    assert assigned(d.tell(CallRunnable("x"), at=60.0)) == [("x", "tcp://a", 2)]
    d.end("x", attempt=2)
    d.start("other")
    assert [type(action) for action in d.tell(CallRunnable("x"), at=120.0)] == [Hold]
    assert assigned(d.end("other")) == [("x", "tcp://a", 3)]


def test_a_call_in_time_is_not_rejected() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("x", objective=Objective(e2e_s=5.0, on_miss="reject")))
    assert assigned(d.tell(CallRunnable("x"), at=5.0))


@pytest.mark.parametrize("has_plain_code", [False, True])
@pytest.mark.parametrize("in_turn", [False, True])
def test_bodies_beside_others_are_one_round_whatever_plain_code_they_have(has_plain_code: bool, in_turn: bool) -> None:
    d = Driver()
    d.ready(replica("a", slots=8))
    d.submit(plan("r", [node("r/m", None)]))
    for n in range(3):
        ask = PlannedNode(f"m[{n}].ask", f"b{n}/ask", (), "small", 5)
        clean = PlannedNode(f"m[{n}].clean", f"b{n}/clean", (ask.name,))
        nodes = (ask, clean) if has_plain_code else (ask,)
        d.submit(RunPlan(f"b{n}", "rag", nodes, nodes[-1].key, part_of="r"))
        d.runnable(ask.key)
        if in_turn:
            d.end(ask.key)
    run = d.machine.runs.get("r")
    assert run is not None
    assert (dict(run.bodies), dict(run.rounds)) == ({"m": 3}, {"m": 3 if in_turn else 1})


@pytest.mark.parametrize("in_turn", [False, True])
def test_bodies_that_hold_nothing_but_a_map_are_one_round_beside_others(in_turn: bool) -> None:
    d = Driver()
    d.ready(replica("a", slots=8))
    d.submit(plan("r", [node("r/m", None)]))

    def fans_out(n: int) -> None:
        inner = PlannedNode(f"m[{n}].inner", f"b{n}/inner")
        d.submit(RunPlan(f"b{n}", "rag", (inner,), inner.key, part_of="r"))

    def asks(n: int) -> None:
        calls = [PlannedNode(f"m[{n}].inner[{i}].ask", f"b{n}.{i}/ask", model="small") for i in range(4)]
        d.submit(*[RunPlan(f"b{n}.{i}", "rag", (call,), call.key, part_of="r") for i, call in enumerate(calls)])
        for call in calls:
            d.runnable(call.key)
            d.end(call.key)

    for steps in [(fans_out, asks)] if in_turn else [(fans_out,), (asks,)]:
        for n in range(3):
            for step in steps:
                step(n)
    run, knowledge = d.machine.runs.get("r"), d.machine.knowledge
    assert run is not None
    inner = [f"m[{n}].inner" for n in range(3)]
    assert dict(run.bodies) == {"m": 3, **dict.fromkeys(inner, 4)}
    assert dict(run.rounds) == {"m": 3 if in_turn else 1, **dict.fromkeys(inner, 1)}
    d.tell(RunEnded("r", "finished"))
    assert [(call.model, count) for call, count in knowledge.nodes.expected_bodies("rag", "m")] == [("small", 12)]
    assert knowledge.nodes.in_turn("rag", "m") is in_turn


def test_a_round_of_a_loop_costs_the_same_however_many_were_before() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("r", [node("m", None)]))

    def play(rounds: range) -> None:
        for i in rounds:
            d.submit(plan(f"b{i}", [PlannedNode(f"m[{i}].x", f"c{i}", model="small")], part_of="r"))
            d.runnable(f"c{i}")
            d.end(f"c{i}")
            d.tell(RunDropped(f"b{i}"))

    first = lines_of(lambda: play(range(100)))
    play(range(100, 2900))
    last = lines_of(lambda: play(range(2900, 3000)))
    assert last < 1.1 * first
    run = d.machine.runs.get("r")
    assert run is not None
    assert (dict(run.bodies), dict(run.rounds)) == ({"m": 3000}, {"m": 3000})


def test_a_run_that_is_broken_off_says_nothing_of_how_many_rounds_its_loop_would_have_had() -> None:
    d = Driver()
    d.ready(replica("a"))
    for run, ended in (("r", "cancelled"), ("s", "finished")):
        d.submit(plan(run, [node(f"{run}/m", None)]))
        for i in range(2):
            d.submit(
                RunPlan(f"{run}{i}", "rag", (PlannedNode(f"m[{i}].x", f"{run}{i}", model="small"),), "", part_of=run)
            )
            d.runnable(f"{run}{i}")
            d.end(f"{run}{i}")
        d.tell(RunEnded(run, ended))
        assert d.machine.knowledge.nodes.of("rag", "m").rounds.value == (2.0 if ended == "finished" else 0.0)
