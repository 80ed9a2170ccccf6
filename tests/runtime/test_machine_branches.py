"""Calls on branches that are not taken."""

from __future__ import annotations

from dask_fmware.model.plan import Guard
from dask_fmware.runtime import Branched, Hold, Skip
from tests.runtime.builders import Driver, node, plan, replica


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
