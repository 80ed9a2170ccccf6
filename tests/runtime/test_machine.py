from __future__ import annotations

import pytest

from dask_fmware.errors import (
    AttemptsExhaustedError,
    CapacityError,
    DeadlineRejectedError,
    RuntimeFaultError,
    UnknownModelError,
)
from dask_fmware.model.plan import Guard, Objective
from dask_fmware.policy import Bind
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.runtime import (
    Assign,
    AttemptEnded,
    Branched,
    CallDropped,
    CallRunnable,
    CallWithdrawn,
    Fail,
    FirstToken,
    Hold,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    Skip,
)
from tests.runtime.builders import POLICY_NAMES, Driver, assigned, node, plan, replica

every_policy = pytest.mark.parametrize("policy", POLICY_NAMES)

# -- calls and slots -----------------------------------------------------------------------------


@every_policy
def test_a_runnable_call_is_assigned_to_an_idle_replica(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    actions = d.start("x")
    assert assigned(actions) == [("x", "tcp://a", 1)]
    assert d.state("x") == "running"
    assert d.machine.held == 0


@every_policy
def test_a_call_beyond_the_slots_is_held_until_one_is_free(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    actions = d.start("x", "y")
    assert assigned(actions) == [("x", "tcp://a", 1)]
    assert isinstance(actions[-1], Hold)
    assert actions[-1].call_id == "y"
    assert d.machine.held == 1
    assert assigned(d.end("x")) == [("y", "tcp://a", 1)]
    assert d.machine.held == 0


@every_policy
def test_a_call_without_a_replica_is_held_until_one_is_ready(policy: str) -> None:
    d = Driver(policy)
    (hold,) = d.start("x")
    assert hold == Hold("x", "no replica of model 'small' is ready")
    assert assigned(d.ready(replica("big", "large"))) == []
    assert assigned(d.ready(replica("a"))) == [("x", "tcp://a", 1)]


@every_policy
def test_calls_that_wait_are_served_by_priority_then_in_turn(policy: str) -> None:
    d = Driver(policy)
    d.submit(plan("low"), plan("low2"), plan("high", priority=5))
    d.runnable("low", "low2", "high")
    d.ready(replica("a"))
    order = []
    while running := [c for c in ("low", "low2", "high") if d.state(c) == "running"]:
        order += running
        d.end(running[0])
    assert order == ["high", "low", "low2"]


def test_every_hold_says_why() -> None:
    d = Driver("slack")
    d.ready(replica("a"))
    holds = [a for a in d.start("x", "y", "z") if isinstance(a, Hold)]
    assert [h.reason for h in holds] == [
        "all replicas are busy",
        "other calls of its model are served first",
    ]


def test_the_engine_gets_the_priority_of_the_run_lower_first() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("x", priority=3))
    (assign,) = d.runnable("x")
    assert assign.priority == -3.0  # type: ignore[union-attr]


@every_policy
def test_a_call_reported_runnable_again_keeps_its_place(policy: str) -> None:
    d = Driver(policy)
    d.start("x", "y")
    d.runnable("x")
    d.ready(replica("a"))
    assert d.state("x") == "running"
    assert d.machine.held == 1


def test_messages_about_calls_nobody_knows_change_nothing() -> None:
    d = Driver()
    d.ready(replica("a"))
    events = (
        CallRunnable("nobody"),
        CallWithdrawn("nobody"),
        CallDropped("nobody"),
        FirstToken("nobody", 1, 0.1),
        AttemptEnded("nobody", 1, "finished"),
        Branched("nobody", "s", 0),
        RunEnded("nobody", "failed"),
        RunDropped("nobody"),
        ReplicaGone("tcp://nobody"),
        ReplicaDraining("tcp://nobody"),
    )
    assert d.tell(*events) == []
    assert not d.machine.knows("nobody")
    assert d.machine.report("nobody") is None


def test_an_event_of_another_kind_is_our_fault() -> None:
    with pytest.raises(AssertionError):
        Driver().machine.handle("surprise", 0.0)  # type: ignore[arg-type]


# -- attempts ------------------------------------------------------------------------------------


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
    assert d.machine.report("x").first_token_at == 0.5  # type: ignore[union-attr]


def test_a_first_token_of_an_attempt_that_was_lost_is_not_counted() -> None:
    d = Driver()
    d.ready(replica("a"), replica("b"))
    d.start("x")
    d.runnable("x")
    d.tell(FirstToken("x", 1, 0.5))
    assert d.call("x").attempts[0].first_token_at is None


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


# -- letting go ----------------------------------------------------------------------------------


@every_policy
def test_a_dropped_call_is_not_assigned_any_more(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y", "z")
    assert d.tell(CallDropped("y")) == []
    assert d.state("y") == "cancelled"
    assert assigned(d.end("x")) == [("z", "tcp://a", 1)]


@every_policy
def test_a_withdrawn_call_may_become_runnable_again(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    d.tell(CallWithdrawn("y"))
    assert d.state("y") == "planned"
    assert d.machine.held == 0
    assert d.end("x") == []
    assert assigned(d.runnable("y")) == [("y", "tcp://a", 1)]


@every_policy
def test_the_slot_of_a_cancelled_attempt_is_free_only_when_its_worker_says_so(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    assert d.tell(CallDropped("x"), RunEnded("x", "cancelled"), RunDropped("x")) == []
    assert d.machine.held == 1
    assert assigned(d.end("x", "aborted")) == [("y", "tcp://a", 1)]


@every_policy
def test_a_run_submitted_again_does_not_take_over_the_slot_of_its_aborted_attempt(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a", slots=2))
    d.start("x")
    d.tell(RunDropped("x"))
    assert assigned(d.start("x")) == [("x", "tcp://a", 2)]
    assert d.machine.fleet.get("tcp://a").free_slots == 0  # type: ignore[union-attr]
    d.end("x", "aborted", 1)
    assert d.state("x") == "running"
    d.end("x", "finished", 2)
    assert d.state("x") == "finished"
    assert d.machine.fleet.get("tcp://a").free_slots == 2  # type: ignore[union-attr]


@every_policy
def test_a_dropped_run_leaves_nothing_behind(policy: str) -> None:
    d = Driver(policy)
    d.start("x", "y")
    d.tell(RunDropped("x"), RunDropped("y"))
    assert d.machine.held == 0
    assert not d.machine.dispatcher._queues
    assert not d.machine.knows("x")
    assert d.ready(replica("a")) == []


def test_dropping_a_run_with_several_queued_calls_serves_others() -> None:
    d = Driver("greedy")
    d.ready(replica("a", slots=2))
    d.start("busy1", "busy2")
    d.submit(plan("r", [node("r/a"), node("r/b")]))
    d.runnable("r/a", "r/b")
    d.start("other")
    assert d.tell(RunDropped("r")) == []
    assert d.machine.held == 1
    assert assigned(d.end("busy1")) == [("other", "tcp://a", 1)]


def test_a_run_that_is_dropped_before_its_end_was_cancelled() -> None:
    d = Driver()
    d.start("x")
    d.tell(RunDropped("x"))
    report = d.machine.report("x")
    assert report is not None
    assert (report.state, report.reason) == ("cancelled", "nobody waits for its result")
    assert [c.state for c in report.calls] == ["cancelled"]


def test_a_body_that_is_dropped_does_not_end_its_run() -> None:
    d = Driver()
    d.start("r")
    d.submit(plan("r[0]", [node("r[0]/x")], part_of="r"))
    d.runnable("r[0]/x")
    d.tell(RunEnded("r[0]", "failed"), RunDropped("r[0]"))
    report = d.machine.report("r")
    assert report is not None
    assert report.state == "running"
    assert [c.state for c in report.calls] == ["held", "cancelled"]


# -- branches ------------------------------------------------------------------------------------


def test_a_call_on_a_branch_that_was_not_taken_takes_no_slot() -> None:
    d = Driver()
    d.submit(plan("r", [node("r/a", guards=(Guard("s", 0),)), node("r/b", guards=(Guard("s", 1),))]))
    d.tell(Branched("r", "s", 1))
    assert d.runnable("r/a") == [Skip("r/a", "switch 's' took another branch")]
    assert d.state("r/a") == "skipped"
    assert [type(a) for a in d.runnable("r/b")] == [Hold]


def test_a_call_that_waits_is_skipped_when_it_turns_out_that_its_branch_was_not_taken() -> None:
    d = Driver("greedy")
    d.ready(replica("a"))
    d.start("busy")
    d.submit(plan("r", [node("r/a", guards=(Guard("s", 0),))]))
    d.runnable("r/a")
    d.tell(Branched("r", "s", None))
    assert [type(a) for a in d.runnable("r/a")] == [Skip]
    assert d.machine.held == 0


# -- replicas ------------------------------------------------------------------------------------


@every_policy
def test_calls_of_a_lost_replica_run_elsewhere(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    assert d.tell(ReplicaGone("tcp://a")) == []
    assert d.state("x") == "planned"
    assert (d.call("x").last.outcome, d.call("x").last.error) == ("lost", "its worker is gone")
    d.runnable("x")
    actions = d.ready(replica("b", slots=2))
    assert sorted(assigned(actions)) == [("x", "tcp://b", 2), ("y", "tcp://b", 1)]


@every_policy
def test_a_draining_replica_takes_no_calls_but_keeps_those_it_runs(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    assert d.tell(ReplicaDraining("tcp://a")) == []
    assert d.end("x") == []
    assert d.state("x") == "finished"
    assert d.state("y") == "held"
    assert assigned(d.tell(ReplicaDraining("tcp://a", draining=False))) == [("y", "tcp://a", 1)]


def test_calls_queued_on_a_draining_replica_move() -> None:
    d = Driver("greedy")
    d.ready(replica("a"))
    d.start("x", "y", "z")
    d.ready(replica("b"))
    assert assigned(d.tell(ReplicaDraining("tcp://a"))) == [("y", "tcp://b", 1)]
    assert d.call("z").state == "queued"
    assert d.machine.fleet.get("tcp://b").waiting == 1  # type: ignore[union-attr]


def test_a_replica_that_announces_itself_again_has_lost_its_attempts() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.start("x", "y")
    assert assigned(d.tell(ReplicaReady(replica("a")))) == [("y", "tcp://a", 1)]
    assert d.call("x").last.error == "it started again"
    assert d.end("x", "retry", error="late") == []
    assert d.call("x").last.error == "it started again"
    assert d.state("x") == "planned"


def test_a_replica_may_come_back_with_another_model() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.ready(replica("a", "large"))
    assert d.machine.fleet.models == ["large"]
    assert assigned(d.start("x")) == []


def test_a_call_is_never_given_to_a_replica_of_another_model() -> None:
    d = Driver()
    d.ready(replica("a", "large", slots=9, card="host/0"), replica("b", "small", card="host/0"))
    assert assigned(d.start("x", "y")) == [("x", "tcp://b", 1)]


class Stubborn(RoundRobin):
    """A policy that insists on one replica."""

    def choose(self, call, replicas, now):
        return Bind("tcp://a", "it was good before")


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_policy_cannot_choose_a_replica_that_drains_or_is_of_another_model(model: str) -> None:
    d = Driver()
    d.machine.dispatcher.policy = Stubborn()
    d.ready(replica("a", model), replica("b"))
    d.tell(ReplicaDraining("tcp://a"))
    assert [type(a) for a in d.start("x")] == [Fail]


class Wilful(RoundRobin):
    """A policy that breaks its contract."""

    name = "wilful"

    def choose(self, call, replicas, now):
        return (
            Bind("tcp://elsewhere", "it feels like it") if call.node == "bad" else super().choose(call, replicas, now)
        )


def test_a_policy_that_breaks_its_contract_fails_the_call_and_nothing_else() -> None:
    d = Driver()
    d.machine.dispatcher.policy = Wilful()
    for call_id in ("good1", "bad", "good2"):
        d.start(call_id)
    actions = d.ready(replica("a", slots=2))
    assert [a[0] for a in assigned(actions)] == ["good1", "good2"]
    (fail,) = [a for a in actions if isinstance(a, Fail)]
    assert isinstance(fail.error, RuntimeFaultError)
    assert "policy 'wilful' chose 'tcp://elsewhere'" in fail.reason
    assert d.machine.held == 0
    assert d.state("bad") == "failed"


# -- runs ----------------------------------------------------------------------------------------


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


def test_a_call_in_time_is_not_rejected() -> None:
    d = Driver()
    d.ready(replica("a"))
    d.submit(plan("x", objective=Objective(e2e_s=5.0, on_miss="reject")))
    assert assigned(d.tell(CallRunnable("x"), at=5.0))


def test_policies_see_the_deadline_of_the_run_and_how_long_a_call_waits() -> None:
    d = Driver()
    d.tell(at=100.0)
    d.submit(plan("x", objective=Objective(e2e_s=5.0), priority=2))
    d.tell(CallRunnable("x"), at=101.0)
    view = d.machine.view(d.machine.runs.calls["x"])
    assert (view.deadline, view.runnable_at, view.priority) == (105.0, 101.0, 2)
    assert (view.prompt_tokens, view.output_tokens, view.attempt) == (10, 10.0, 1)
    assert view.answers


def test_calls_that_come_and_go_behind_one_that_stays_are_forgotten() -> None:
    d = Driver()
    d.start("stays")
    for i in range(500):
        d.start(str(i))
        d.tell(RunDropped(str(i)))
    assert d.machine.held == 1
    assert len(d.machine.dispatcher._queues["small"]) == 1


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
