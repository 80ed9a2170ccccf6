"""How runs go through their nodes: bodies of maps and loops, and plain code that takes no time."""

from __future__ import annotations

from math import inf

from dask_fmware.model.plan import PlannedNode, RunPlan
from dask_fmware.runtime import CallRunnable, Event
from dask_fmware.simulation.agenda import Agenda
from dask_fmware.simulation.course import Course, Live
from dask_fmware.simulation.sampled import Body, SampledNode, SampledRun


def body(number: int) -> Body:
    """A call, and plain code behind it that takes no time, as a log tells of it."""
    names = (f"loop[{number}].call", f"loop[{number}].code")
    nodes = (
        PlannedNode(names[0], key=f"call-{number}", model="m"),
        PlannedNode(names[1], key=f"code-{number}", after=(names[0],)),
    )
    plan = RunPlan(f"body-{number}", "agent", nodes, f"code-{number}", part_of="run")
    return Body(plan, (SampledNode(names[0], "m", (), call=(1, 1)), SampledNode(names[1], None, (0,))))


def submitted(bodies: tuple[Body, ...], *, in_turn: bool) -> tuple[Course, list[Event], list[Live]]:
    """A run of one map or loop, what the machine is told of it, and the run once it has ended."""
    told: list[Event] = []
    ended: list[Live] = []
    course = Course(Agenda(), told.append, ended.append, hop_s=0.0)
    plan = RunPlan("run", "agent", (PlannedNode("loop", key="loop"),), "loop")
    nodes = (SampledNode("loop", None, (), bodies=bodies, in_turn=in_turn),)
    course.submit(SampledRun("run", 0.0, "agent", "default", plan, nodes, 0.0, inf))
    return course, told, ended


def test_a_map_whose_items_end_in_plain_code_is_over_with_its_last_item() -> None:
    course, _, ended = submitted(tuple(map(body, range(4))), in_turn=False)
    for number in range(4):
        assert not ended, f"over after {number} of 4 items"
        course.call_done(f"call-{number}")
    assert [live.run.run_id for live in ended] == ["run"]


def test_a_loop_whose_rounds_end_in_plain_code_begins_each_round_once() -> None:
    course, told, ended = submitted(tuple(map(body, range(3))), in_turn=True)
    for number in range(3):
        assert [e.call_id for e in told if isinstance(e, CallRunnable)] == [f"call-{i}" for i in range(number + 1)]
        course.call_done(f"call-{number}")
    assert len(ended) == 1
