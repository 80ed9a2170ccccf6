"""Replicas that come, drain and go, and policies that choose none of them."""

from __future__ import annotations

import pytest

from dask_fmware.errors import RuntimeFaultError
from dask_fmware.policy import Bind
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.runtime import Fail, ReplicaDraining, ReplicaGone, ReplicaReady
from tests.runtime.builders import Driver, assigned, every_policy, replica


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
    d = Driver(Stubborn())
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
    d = Driver(Wilful())
    for call_id in ("good1", "bad", "good2"):
        d.start(call_id)
    actions = d.ready(replica("a", slots=2))
    assert [a[0] for a in assigned(actions)] == ["good1", "good2"]
    (fail,) = [a for a in actions if isinstance(a, Fail)]
    assert isinstance(fail.error, RuntimeFaultError)
    assert "policy 'wilful': chose 'tcp://elsewhere'" in fail.reason
    assert d.machine.held == 0
    assert d.state("bad") == "failed"
