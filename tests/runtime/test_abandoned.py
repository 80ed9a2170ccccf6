"""Models of which no replica will come: their calls fail with the reason instead of waiting for ever."""

from __future__ import annotations

from dask_fmware.errors import EngineLoadError
from dask_fmware.runtime import Fail, Hold, ModelAbandoned, ReplicaGone
from tests.runtime.builders import Driver, assigned, every_policy, node, plan, replica

WHY = "small-0 has given up: no such file"


@every_policy
def test_what_waits_for_an_abandoned_model_fails_and_says_why(policy: str) -> None:
    d = Driver(policy)
    d.start("x", "y")
    failed = d.tell(ModelAbandoned("small", WHY))
    assert [action.call_id for action in failed if isinstance(action, Fail)] == ["x", "y"]
    assert str(failed[0].error) == (  # type: ignore[union-attr]
        "workflow 'rag', node 'x': no replica of model 'small' will come: small-0 has given up: no such file"
    )
    assert d.machine.held == 0
    assert d.state("x") == "failed"


@every_policy
def test_what_comes_later_fails_at_once_and_other_models_are_served(policy: str) -> None:
    d = Driver(policy)
    d.tell(ModelAbandoned("small", WHY))
    d.ready(replica("big", "large"))
    (failed,) = d.start("x")
    assert isinstance(failed, Fail)
    assert isinstance(failed.error, EngineLoadError)
    d.submit(plan("other", [node("other", "large")]))
    assert assigned(d.runnable("other")) == [("other", "tcp://big", 1)]


@every_policy
def test_a_replica_that_comes_or_a_reason_that_is_gone_ends_it(policy: str) -> None:
    d = Driver(policy)
    d.tell(ModelAbandoned("small", WHY))
    d.tell(ModelAbandoned("small", ""))
    (held,) = d.start("x")
    assert isinstance(held, Hold)
    d.tell(ModelAbandoned("small", WHY))
    d.ready(replica("a"))
    assert assigned(d.start("y")) == [("y", "tcp://a", 1)]
    d.tell(ReplicaGone("tcp://a"))
    (held,) = d.start("z")
    assert isinstance(held, Hold), "its worker may come back"


@every_policy
def test_a_model_that_is_served_is_not_abandoned(policy: str) -> None:
    d = Driver(policy)
    d.ready(replica("a"))
    d.start("x", "y")
    assert d.tell(ModelAbandoned("small", WHY)) == []
    assert assigned(d.end("x")) == [("y", "tcp://a", 1)]
