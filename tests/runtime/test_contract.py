"""The checker of the contract: it finds each kind of breach, and none where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dask_fmware.errors import CapacityError
from dask_fmware.model.plan import Objective
from dask_fmware.model.report import RunReport
from dask_fmware.runtime import (
    Action,
    Assign,
    AttemptEnded,
    CallRunnable,
    Event,
    Fail,
    Refuse,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    RunRetried,
    RunSubmitted,
    Skip,
)
from dask_fmware.runtime.contract import Contract
from tests.runtime.builders import node, plan, replica

ON = "tcp://a"


def assign(call: str = "r/x", attempt: int = 1, on: str = ON) -> Assign:
    return Assign(call, on, attempt, 0.0, "it is idle")


def ended(call: str = "r/x", attempt: int = 1, outcome: str = "finished") -> AttemptEnded:
    return AttemptEnded(call, attempt, outcome)  # type: ignore[arg-type]


READY = ReplicaReady(replica("a"))
SUBMITTED = RunSubmitted(plan("r", [node("r/x")]))
STARTED: list[tuple[Event, Sequence[Action]]] = [(READY, ()), (SUBMITTED, ()), (CallRunnable("r/x"), [assign()])]
SERVED = [*STARTED, (ended(), ()), (RunEnded("r", "finished"), ())]


def checked(*course: tuple[Event, Sequence[Action]], **options: object) -> Contract:
    contract = Contract(2, **options)  # type: ignore[arg-type]
    for second, (event, actions) in enumerate(course):
        contract.observe(event, actions, float(second))
    contract.finish()
    return contract


def test_a_run_that_is_served_keeps_the_contract() -> None:
    contract = checked(*SERVED, (RunDropped("r"), ()))
    assert contract.breaches == []
    assert contract.counts == {"events": 6, "runs": 1, "attempts": 1, "attempts finished": 1, "runs finished": 1}


def test_a_run_that_failed_may_be_retried_and_ends_once_more() -> None:
    failed = [(READY, ()), (SUBMITTED, ()), (RunEnded("r", "failed"), ())]
    contract = checked(*failed, (RunRetried("r"), ()), (CallRunnable("r/x"), [assign()]), *SERVED[-2:])
    assert contract.breaches == []
    assert (contract.counts["runs"], contract.counts["runs failed"], contract.counts["runs finished"]) == (1, 1, 1)
    assert contract.counts["runs retried"] == 1
    contract = checked(*SERVED, (RunRetried("r"), ()), (RunRetried("z"), ()))
    assert (contract.breaches, contract.counts["runs retried"]) == ([], 0)


def test_a_run_that_was_refused_may_be_retried_and_is_refused_again_or_ends() -> None:
    refuse = [Refuse("r", CapacityError("full"))]
    contract = checked((READY, ()), (SUBMITTED, refuse), (RunRetried("r"), refuse))
    assert (contract.breaches, contract.counts["runs refused"]) == ([], 2)
    contract = checked((READY, ()), (SUBMITTED, refuse), (RunRetried("r"), ()))
    assert any("was accepted and never ended" in breach.what for breach in contract.breaches)
    contract = checked((READY, ()), (SUBMITTED, refuse), (RunRetried("r"), ()), *SERVED[2:])
    assert (contract.breaches, contract.counts["runs finished"]) == ([], 1)


@pytest.mark.parametrize(
    ("course", "point", "what"),
    [
        ([(SUBMITTED, ())], 1, "run 'r' of workflow 'rag' was accepted and never ended"),
        ([(SUBMITTED, ()), (RunEnded("r", "failed"), ()), (RunRetried("r"), ())], 1, "was accepted and never ended"),
        (STARTED, 3, "attempt 1 of call 'r/x' still holds a slot of 'tcp://a'"),
        ([*STARTED, (RunEnded("r", "finished"), ())], 4, "no attempt of node 'x' did"),
        ([*STARTED, (ended(outcome="retry"), [assign(attempt=2)])], 3, "although its inputs are not there"),
        ([*STARTED, (ended(outcome="retry"), ()), (CallRunnable("r/x"), [assign()])], 2, "has a number that"),
        ([(READY, ()), (CallRunnable("z/x"), [assign("z/x")])], 2, "belongs to no live run"),
        ([(SUBMITTED, ()), (CallRunnable("r/x"), [assign()])], 3, "which is not there"),
        ([(READY, ()), (ReplicaDraining(ON), ()), *STARTED[1:]], 3, "which takes no calls"),
        ([(READY, ()), (ReplicaGone(ON), ()), *STARTED[1:]], 3, "which is not there"),
        (
            [(ReplicaReady(replica("a", "large")), ()), *STARTED[1:]],
            3,
            "for model 'small' was assigned to one of 'large'",
        ),
        (
            [*STARTED, (RunSubmitted(plan("s", [node("s/x")])), ()), (CallRunnable("s/x"), [assign("s/x")])],
            3,
            "whose 1 slots are taken",
        ),
        (
            [
                *STARTED,
                (ended(outcome="retry"), ()),
                (CallRunnable("r/x"), [assign(attempt=2)]),
                (ended(attempt=2, outcome="retry"), ()),
                (CallRunnable("r/x"), [assign(attempt=3)]),
            ],
            2,
            "one more than the 2 that are permitted",
        ),
    ],
)
def test_every_breach_is_found(course: list[tuple[Event, Sequence[Action]]], point: int, what: str) -> None:
    breaches = checked(*course).breaches
    assert any(breach.point == point and what in breach.what for breach in breaches), breaches


def ahead(call: str, on: str = ON) -> Assign:
    return Assign(call, on, 1, 0.0, "one is about to end", wait_s=0.5)


def three(assigns: Sequence[Assign]) -> list[tuple[Event, Sequence[Action]]]:
    nodes = [node(made.call_id) for made in assigns]
    return [(RunSubmitted(plan("s", nodes)), ()), *((CallRunnable(made.call_id), [made]) for made in assigns)]


def test_one_call_may_be_ahead_of_each_slot_and_no_more() -> None:
    first, second, third = assign("s/x"), ahead("s/y"), ahead("s/z")
    assert not [b for b in checked((READY, ()), *three([first, second])).breaches if "are taken" in b.what]
    assert any("are taken" in b.what for b in checked((READY, ()), *three([first, second, third])).breaches)
    pair: list[tuple[Event, Sequence[Action]]] = [
        (ReplicaReady(replace(replica(name, card="c"), card_slots=1)), ()) for name in ("a", "b")
    ]
    other = ahead("s/y", "tcp://b")
    assert not [b for b in checked(*pair, *three([first, other])).breaches if "are taken" in b.what]
    assert any("card 'c'" in b.what for b in checked(*pair, *three([first, other, third])).breaches)


def test_a_call_that_was_ahead_when_its_replica_died_has_had_no_try_but_only_once() -> None:
    course: list[tuple[Event, Sequence[Action]]] = [(READY, ()), *three([assign("s/x"), ahead("s/y")])]
    for attempt in (2, 3):
        course += [(ReplicaGone(ON), ()), (READY, ()), (CallRunnable("s/y"), [assign("s/y", attempt)])]
    assert not [b for b in checked(*course).breaches if "permitted" in b.what]
    course += [(ReplicaGone(ON), ()), (READY, ()), (CallRunnable("s/y"), [assign("s/y", 4)])]
    assert any("one more than the 2" in b.what for b in checked(*course).breaches)


def test_so_it_is_where_it_waited_for_a_slot_of_another_replica_of_its_card() -> None:
    pair = [replace(replica(name, card="c"), card_slots=1) for name in ("a", "b")]
    course: list[tuple[Event, Sequence[Action]]] = [*((ReplicaReady(one), ()) for one in pair)]
    course += three([assign("s/x"), ahead("s/y", "tcp://b")])
    lost = [*course, (ReplicaGone("tcp://b"), ()), (ReplicaReady(pair[1]), ())]
    again = [assign("s/y", attempt, on="tcp://b") for attempt in (2, 3, 4)]
    tried = [(CallRunnable("s/y"), [again[0]]), (ended("s/y", 2, "retry"), ()), (CallRunnable("s/y"), [again[1]])]
    free = [(ended("s/x"), ())]
    assert not [b for b in checked(*lost, *free, *tried).breaches if "permitted" in b.what]
    begun = [*course, *free, (ReplicaGone("tcp://b"), ()), (ReplicaReady(pair[1]), ())]
    assert any("one more than the 2" in b.what for b in checked(*begun, *tried).breaches), "it had the slot by then"


def test_replicas_of_one_card_share_its_slots() -> None:
    pair = [replace(replica(name, card="c"), card_slots=1) for name in ("a", "b")]
    course: list[tuple[Event, Sequence[Action]]] = [
        *((ReplicaReady(one), ()) for one in pair),
        (RunSubmitted(plan("r", [node("r/x"), node("r/y")])), ()),
        (CallRunnable("r/x"), [assign()]),
        (CallRunnable("r/y"), [assign("r/y", on="tcp://b")]),
    ]
    assert any("card 'c', whose 1 slots are taken" in breach.what for breach in checked(*course).breaches)


def test_a_call_whose_result_was_lost_may_run_again_from_the_first_try() -> None:
    again = [
        (event, actions)
        for attempt in (2, 3, 4)
        for event, actions in (
            (CallRunnable("r/x"), [assign(attempt=attempt)]),
            (ended(attempt=attempt), ()),
        )
    ]
    assert checked(*SERVED, *again, (RunDropped("r"), ())).breaches == []


def test_an_attempt_that_its_replica_never_heard_of_is_no_try() -> None:
    course: list[tuple[Event, Sequence[Action]]] = list(STARTED)
    for attempt in (2, 3, 4):
        course += [
            (ended(attempt=attempt - 1, outcome="undelivered"), ()),
            (CallRunnable("r/x"), [assign(attempt=attempt)]),
        ]
    assert checked(*course, (ended(attempt=4), ()), (RunEnded("r", "finished"), ())).breaches == []


def test_what_was_skipped_or_refused_or_cancelled_is_an_end() -> None:
    refused = (RunSubmitted(plan("s", [node("s/x")])), [Refuse("s", CapacityError("full"))])
    skipped = (CallRunnable("r/x"), [Skip("r/x", "another branch")])
    contract = checked((READY, ()), (SUBMITTED, ()), skipped, (RunEnded("r", "finished"), ()), refused)
    assert contract.breaches == []
    assert contract.counts["runs refused"] == 1
    assert checked(*STARTED, (RunDropped("r"), ()), (ended(outcome="aborted"), ())).breaches == []


def test_a_log_that_begins_late_may_tell_of_calls_that_began_before() -> None:
    course: list[tuple[Event, Sequence[Action]]] = [
        (READY, ()),
        (CallRunnable("z/x"), [assign("z/x")]),
        (ended("z/x"), ()),
    ]
    assert checked(*course, is_complete=False).breaches == []


def test_a_late_run_that_is_reported_as_in_time_is_a_breach() -> None:
    late = replace(plan("r", [node("r/x")]), objective=Objective(e2e_s=0.5))
    report = RunReport("r", "w", "default", 0, 0.0, "finished", e2e_slo_s=0.5, finished_at=0.1)
    course = [(READY, ()), (RunSubmitted(late), ()), *SERVED[2:]]
    assert any(breach.point == 4 for breach in checked(*course, report=lambda run_id: report).breaches)
    assert checked(*course, report=lambda run_id: replace(report, finished_at=3.0)).breaches == []


def test_a_call_never_waits_for_an_idle_replica_without_a_wake_up() -> None:
    held: list[tuple[Event, Sequence[Action]]] = [(READY, ()), (SUBMITTED, ()), (CallRunnable("r/x"), ())]
    dropped: tuple[Event, Sequence[Action]] = (RunDropped("r"), ())
    assert any(
        breach.what == "call 'r/x' waits for nothing although 'tcp://a' is idle"
        for breach in checked(*held, dropped, wake_at=lambda: None).breaches
    )
    assert checked(*held, dropped, wake_at=lambda: 5.0).breaches == []
    failed = (CallRunnable("r/x"), [Fail("r/x", CapacityError("full"))])
    assert checked(*held[:2], failed, dropped, wake_at=lambda: None).breaches == []
    other: tuple[Event, Sequence[Action]] = (ReplicaReady(replica("b")), ())
    busy = [other, *STARTED, (RunSubmitted(plan("s", [node("s/x")])), ()), (CallRunnable("s/x"), ())]
    breaches = checked(*busy, (RunDropped("s"), ()), wake_at=lambda: None).breaches
    assert not [breach for breach in breaches if "waits" in breach.what]  # the end of the attempt on 'a' is an event
