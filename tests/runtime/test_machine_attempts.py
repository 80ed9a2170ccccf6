"""Attempts of a call: how they end, how often there is another, and what is learnt of them."""

from __future__ import annotations

import pytest

from dask_fmware.errors import AttemptsExhaustedError
from dask_fmware.model.bounds import due, first_token_s
from dask_fmware.model.plan import Objective
from dask_fmware.runtime import (
    Assign,
    AttemptEnded,
    CallRetried,
    CallRunnable,
    CallWithdrawn,
    Fail,
    FirstToken,
    ReplicaGone,
    RunEnded,
    RunRetried,
)
from dask_fmware.runtime.contract import Contract
from dask_fmware.runtime.learning.knowledge import THE_END
from tests.runtime.builders import Driver, assigned, node, plan, replica


def test_an_attempt_that_is_to_be_repeated_goes_to_another_replica() -> None:
    d = Driver()
    d.ready(replica("a"), replica("b"))
    d.start("x")
    assert d.end("x", "retry", error="EngineCrashedError: it died") == []
    assert d.state("x") == "planned"
    assert assigned(d.runnable("x")) == [("x", "tcp://b", 2)]


def test_the_only_replica_is_tried_again() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.end("x", "retry")
    assert assigned(d.runnable("x")) == [("x", "tcp://a", 2)]


def test_attempts_are_bounded_and_the_error_names_the_last_cause() -> None:
    d = Driver(max_attempts=2)
    d.ready(replica("a"))
    d.start("x")
    d.end("x", "retry", 1, error="it broke")
    d.runnable("x")
    d.end("x", "retry", 2, error="it broke again")
    (fail,) = d.runnable("x")
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, AttemptsExhaustedError)
    assert "2 attempts failed (router.max_attempts=2), the last: it broke again" in fail.reason
    assert d.state("x") == "failed"


def test_attempts_lost_with_their_replicas_are_counted() -> None:
    d = Driver(max_attempts=1)
    d.ready(replica("a"))
    d.start("x")
    d.tell(ReplicaGone("tcp://a", ""))
    (fail,) = d.runnable("x")
    assert "its replicas were lost" in fail.reason


@pytest.mark.parametrize("known_to_be_gone", [True, False])
def test_an_assignment_that_never_left_for_its_replica_is_no_try(known_to_be_gone: bool) -> None:
    d = Driver(max_attempts=1)
    d.ready(*[replica(name) for name in "abcd"])
    (first,) = assigned(d.start("x"))
    for number in range(1, 4):
        if known_to_be_gone:
            d.tell(ReplicaGone(first[1], ""))
        assert d.end("x", "undelivered", number) == []
        assert d.end("x", "undelivered", number) == []  # said twice
        (first,) = assigned(d.runnable("x"))
        assert first[2] == number + 1
    d.end("x", "finished", 4)
    assert d.state("x") == "finished"
    assert [a.outcome for a in d.call("x").attempts] == ["undelivered"] * 3 + ["finished"]


def test_a_failed_call_that_its_user_retries_has_all_attempts_again_and_is_counted_from_there() -> None:
    d = Driver(max_attempts=2)
    contract = Contract(2, report=d.machine.report)
    d.machine.observers.append(contract)
    d.ready(replica("a"))
    d.start("x")
    for number in (1, 2, 3, 4):
        if number == 3:
            d.tell(RunEnded("x", "failed", "used up"), CallWithdrawn("x"), RunRetried("x"), CallRetried("x"), at=30.0)
            assert assigned(d.runnable("x")) == [("x", "tcp://a", 3)]
            assert d.call("x").runnable_at == 30.0
        d.end("x", "retry", number, error="it broke")
        more = d.runnable("x")
        assert [type(action) for action in more] == [Assign if number in (1, 3) else Fail]
    assert not contract.breaches


@pytest.mark.parametrize("outcome", ["retry", "finished"])
def test_only_what_has_failed_is_retried(outcome: str) -> None:
    d = Driver(max_attempts=2)
    d.ready(replica("a"))
    d.start("x")
    d.end("x", outcome)
    state = d.state("x")
    assert d.tell(CallRetried("x"), CallRetried("nobody")) == []
    assert (d.state("x"), d.machine.runs.calls["x"].tries) == (state, 1)


def test_a_lost_result_is_made_again_and_does_not_count_as_a_failure() -> None:
    d = Driver(max_attempts=1)
    d.ready(replica("a"))
    d.start("x")
    for number in (1, 2, 3):
        d.tell(at=float(number))
        d.end("x", attempt=number, output_tokens=3)
        d.tell(CallWithdrawn("x"))
        assert d.state("x") == "finished"
        assert assigned(d.runnable("x")) == [("x", "tcp://a", number + 1)]
    assert d.call("x").runnable_at == 3.0


@pytest.mark.parametrize("has_ended", [True, False])
def test_the_time_until_a_result_is_lost_is_no_pause_of_its_workflow(has_ended: bool) -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("r", [node("r/a"), node("r/b", after=("a",), answers=True)]))

    def pauses() -> list[float]:
        return [d.machine.knowledge.nodes.pause_s("rag", name) for name in ("a", "b", THE_END)]

    for at, call_id in enumerate(("r/a", "r/b"), 1):
        d.tell(CallRunnable(call_id), at=float(at))
        d.end(call_id)
    if has_ended:
        d.tell(RunEnded("r", "finished"), at=3.0)
    learnt = pauses()
    assert learnt == [1.0, 1.0, 1.0 if has_ended else 0.0]
    d.tell(CallRunnable("r/a"), at=1000.0)
    assert d.call("r/a").runnable_at == 1000.0
    d.end("r/a", "failed", attempt=2)
    d.tell(CallRunnable("r/b"), at=1001.0)
    assert pauses() == learnt
    if has_ended:
        d.tell(CallRetried("r/a"), CallRunnable("r/a"), at=2000.0)
        assert pauses() == learnt


def test_a_call_that_runs_again_has_no_negative_times() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.tell(FirstToken("x", 1, 0.5), at=0.5)
    d.tell(AttemptEnded("x", 1, "finished"), at=1.0)
    d.tell(ReplicaGone("tcp://a"), CallRunnable("x"), at=5.0)
    report = d.call("x")
    assert (report.queued_s, report.ttft_s, report.latency_s) == (None, None, None)


def test_a_call_that_failed_on_the_only_free_replica_lets_others_pass() -> None:
    d = Driver("slack")
    d.ready(replica("a"), replica("b"))
    d.start("x", "y")
    on = {c: d.call(c).last.replica_id for c in "xy"}
    d.start("z")
    assert assigned(d.end("x", "retry")) == [("z", on["x"], 1)]
    d.runnable("x")
    d.end("z")
    assert d.state("x") == "held"  # the other replica is full, and here it failed
    assert assigned(d.start("w")) == [("w", on["x"], 1)]
    assert assigned(d.end("y")) == [("x", on["y"], 2)]


def test_calls_that_pass_stay_in_order() -> None:
    d = Driver("slack")
    d.ready(replica("a"), replica("b"))
    d.start("x", "y")
    d.end("x", "retry")
    d.runnable("x")
    d.start("w")
    assert (d.state("x"), d.state("w")) == ("held", "running")
    assert d.machine.held == 1
    d.tell(ReplicaGone(d.call("y").last.replica_id))
    d.end("w")
    assert d.state("x") == "running"  # no other replica is left


def test_an_attempt_ends_once() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.end("x", prompt_tokens=9, output_tokens=5, cached_tokens=2)
    d.end("x", "aborted", error="late")
    attempt = d.call("x").last
    assert (attempt.outcome, attempt.prompt_tokens, attempt.output_tokens, attempt.error) == ("finished", 9, 5, "")
    assert attempt.cached_tokens == 2


def test_the_first_first_token_counts() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.tell(FirstToken("x", 1, 0.5), at=0.5)
    d.tell(FirstToken("x", 1, 0.5), at=2.0)
    assert d.call("x").ttft_s == 0.5
    assert first_token_s(d.machine.report("x")) == 0.5  # type: ignore[arg-type]


def test_an_answer_without_a_word_is_seen_when_it_ends() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.now = 3.0
    d.end("x", ttft_s=0.5, latency_s=2.5, hidden_s=2.0)
    assert d.call("x").ttft_s == 2.5


def test_the_way_to_an_engine_is_as_long_whether_its_model_thinks_or_not() -> None:
    def delay_s(hidden_s: float) -> float:
        d = Driver()
        d.ready(replica("a"))
        for n in range(10):
            d.start(f"x{n}")
            d.tell(FirstToken(f"x{n}", 1, 0.3 + hidden_s), at=d.now + 0.3 + hidden_s)
            d.end(f"x{n}", output_tokens=2, ttft_s=0.3, latency_s=0.3 + hidden_s, hidden_s=hidden_s)
        return d.machine.fleet.get("tcp://a").pace.handover.delay_s  # type: ignore[union-attr]

    assert delay_s(5.0) == pytest.approx(delay_s(0.0)) == pytest.approx(0.2)


def test_a_first_token_of_an_attempt_that_was_lost_is_not_counted() -> None:
    d = Driver()
    d.ready(replica("a"), replica("b"))
    d.start("x")
    d.runnable("x")
    d.tell(FirstToken("x", 1, 0.5))
    assert d.call("x").attempts[0].first_token_at is None


def test_a_first_token_of_an_answer_that_broke_off_is_none_of_the_run() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("x", objective=Objective(ttft_s=2.0)))
    d.runnable("x")
    d.tell(FirstToken("x", 1, 0.5), at=0.5)
    report = d.machine.report("x")
    assert report is not None
    assert (first_token_s(report), due(report)) == (0.5, None)
    d.tell(ReplicaGone("tcp://a"), at=1.0)
    assert first_token_s(report) is None
    assert due(report) is not None
    d.ready(replica("b"))
    d.runnable("x")
    assert dict(d.machine.slack("x", 1.0)).keys() == {"x"}
    d.tell(FirstToken("x", 2, 0.5), at=1.5)
    d.end("x", attempt=2)
    d.tell(RunEnded("x", "finished"))
    assert (report.first_token_at, report.met) == (1.5, True)


def test_a_failed_attempt_fails_the_call_with_its_error() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.end("x", "failed", error="ContextOverflowError: too long")
    assert d.state("x") == "failed"
    assert d.call("x").reason == "ContextOverflowError: too long"


def test_a_worker_may_find_out_itself_that_a_branch_was_not_taken() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.end("x", "skipped")
    assert d.state("x") == "skipped"


def test_finished_calls_teach_how_long_answers_are() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    d.end("x", output_tokens=4)
    assert d.machine.knowledge.nodes.of("rag", "x").output.within(10) == 4.0


def test_the_prediction_of_an_attempt_is_kept_with_it() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x")
    assert d.call("x").last.predicted_s == pytest.approx(0.1 + 10 * 0.001 + 10 * 0.01)


def test_an_attempt_is_given_up_after_twenty_times_its_prediction_and_never_before_the_floor() -> None:
    for floor, is_bounded in ((0.0, False), (5.0, True), (500.0, True)):
        d = Driver("greedy", stall_s=floor)
        d.ready(replica("a"))
        d.submit(plan("r"))
        (action,) = d.runnable("r")
        assert isinstance(action, Assign)
        call = d.machine.runs.calls["r"]
        assert call.attempt is not None
        wanted = max(floor, 20.0 * call.attempt.predicted_s) if is_bounded else 0.0
        assert action.stall_s == pytest.approx(wanted)
