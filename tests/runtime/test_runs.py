from __future__ import annotations

from dataclasses import replace

from dask_fmware.model.plan import Guard, Objective
from dask_fmware.model.report import RunReport
from dask_fmware.runtime.runs.records import Runs
from tests.runtime.builders import node, plan


def test_a_plan_becomes_a_run_with_a_call_for_each_model_node() -> None:
    runs = Runs(10)
    run = runs.add(plan("r", [node("r/a"), node("r/code", None), node("r/b", "large", answers=True)]), now=5.0)
    assert run is not None
    assert [(c.call_id, c.node, c.model, c.answers) for c in run.report.calls] == [
        ("r/a", "a", "small", False),
        ("r/b", "b", "large", True),
    ]
    assert run.report.submitted == 5.0
    assert len(runs) == 1


def test_a_run_that_is_live_is_not_added_twice() -> None:
    runs = Runs(10)
    runs.add(plan("r"), 0.0)
    assert runs.add(plan("r"), 1.0) is None


def test_a_body_of_a_run_that_is_not_live_is_ignored() -> None:
    assert Runs(10).add(plan("r[0]", part_of="r"), 0.0) is None


def test_bodies_belong_to_the_run_even_when_nested() -> None:
    runs = Runs(10)
    run = runs.add(plan("r", [node("r/a")]), 0.0)
    runs.add(plan("r[0]", [node("r[0]/x")], part_of="r"), 1.0)
    runs.add(plan("r[0][1]", [node("r[0][1]/x")], part_of="r[0]"), 2.0)
    assert runs.get("r[0][1]") is run
    assert len(runs.report("r[0][1]").calls) == 3  # type: ignore[union-attr]
    assert [report.run_id for report in runs.reports()] == ["r"]


def test_dropping_a_run_drops_its_bodies() -> None:
    runs = Runs(10)
    runs.add(plan("r", [node("r/a")]), 0.0)
    runs.add(plan("r[0]", [node("r[0]/x")], part_of="r"), 1.0)
    runs.add(plan("r[0][1]", [node("r[0][1]/x")], part_of="r[0]"), 2.0)
    assert [c.call_id for c in runs.drop("r", 0.0)] == ["r/a", "r[0]/x", "r[0][1]/x"]
    assert len(runs) == 0
    assert not runs.calls
    assert runs.drop("r[0]", 0.0) == []


def test_dropping_a_body_keeps_its_calls_in_the_report() -> None:
    runs = Runs(10)
    run = runs.add(plan("r", [node("r/a")]), 0.0)
    runs.add(plan("r[0]", [node("r[0]/x")], part_of="r"), 1.0)
    assert [c.call_id for c in runs.drop("r[0]", 0.0)] == ["r[0]/x"]
    assert run is not None
    assert not run.parts
    assert [c.call_id for c in run.report.calls] == ["r/a", "r[0]/x"]


def test_a_key_that_two_plans_name_belongs_to_the_first() -> None:
    runs = Runs(10)
    runs.add(plan("r", [node("shared"), node("r/a")]), 0.0)
    runs.add(plan("s", [node("shared"), node("s/a")]), 0.0)
    assert [c.call_id for c in runs.drop("s", 0.0)] == ["s/a"]
    assert "shared" in runs.calls


def test_the_objective_becomes_bounds_since_submission() -> None:
    runs = Runs(10)
    report = runs.add(plan("r", objective=Objective(ttft_s=2.0, e2e_s=9.0, finish_by=107.0)), 100.0).report  # type: ignore[union-attr]
    assert (report.ttft_slo_s, report.e2e_slo_s, report.finish_by_s) == (2.0, 9.0, 7.0)
    late = runs.add(plan("s", objective=Objective(finish_by=90.0)), 100.0).report  # type: ignore[union-attr]
    assert late.finish_by_s == 0.0


def test_the_history_keeps_the_reports_of_the_runs_that_were_dropped_last() -> None:
    runs = Runs(keep_runs=2)
    for run_id in "abc":
        runs.add(plan(run_id), 0.0)
        runs.drop(run_id, 0.0)
    assert runs.report("a") is None
    assert [report.run_id for report in runs.reports()] == ["b", "c"]


def test_where_no_reports_are_kept_that_of_a_run_is_there_while_it_is_dropped() -> None:
    runs = Runs(keep_runs=0)
    runs.add(plan("a"), 0.0)
    runs.drop("a", 0.0)
    assert runs.report("a") is not None
    assert list(runs.reports()) == []
    runs.forget_dropped()
    assert runs.report("a") is None


def test_runs_under_way_since_a_time_are_live_ones_and_those_dropped_after_it() -> None:
    runs = Runs(keep_runs=10)
    for at, run_id in enumerate("abcd"):
        runs.add(plan(run_id), 0.0)
        if run_id != "d":
            runs.drop(run_id, float(at))
    runs.add(plan("d[0]", part_of="d"), 0.0)
    found = [one if isinstance(one, RunReport) else RunReport.unpacked(one) for one in runs.under_way_since(0.0, 9)]
    assert [report.run_id for report in found] == ["d", "c", "b"]
    assert len(list(runs.under_way_since(0.0, 1))) == 2
    asked = runs.under_way_since(0.0, 0)
    runs.add(plan("e"), 0.0)
    assert isinstance(next(asked), RunReport)
    runs.drop("e", 9.0)
    assert len(list(asked)) == 1, "it ended meanwhile"


def test_a_run_that_was_submitted_again_is_remembered_as_the_last() -> None:
    runs = Runs(keep_runs=2)
    for run_id in "abac":
        runs.add(plan(run_id), 0.0)
        runs.drop(run_id, 0.0)
    assert [report.run_id for report in runs.reports()] == ["a", "c"]


def test_reports_are_packed_as_runs_are_when_each_is_asked_for_and_once() -> None:
    runs = Runs(keep_runs=10)
    for run_id in "abcd":
        runs.add(plan(run_id), 0.0)
    runs.drop("a", 0.0)
    made = runs.all_packed()
    seen = [RunReport.unpacked(next(made)).run_id]
    run = runs.get("b")
    assert run is not None
    run.end("finished", "", 1.0)
    runs.drop("b", 0.0)
    runs.add(plan("e"), 2.0)
    runs.drop("c", 0.0)
    rest = [RunReport.unpacked(packed) for packed in made]
    assert seen + [report.run_id for report in rest] == ["a", "b", "c", "d"]
    assert [report.state for report in rest] == ["finished", "running", "running"]
    assert [RunReport.unpacked(packed).run_id for packed in runs.packed(["d", "x", "a"])] == ["d", "a"]


def test_a_call_is_skipped_only_if_a_switch_is_known_to_have_taken_another_branch() -> None:
    runs = Runs(10)
    run = runs.add(plan("r", [node("r/a", guards=(Guard("outer", 0), Guard("inner", 1)))]), 0.0)
    assert run is not None
    call = runs.calls["r/a"]
    assert run.skips(call) is None
    run.take("r", "outer", 0)
    assert run.skips(call) is None
    run.take("r", "inner", None)
    assert run.skips(call) == "switch 'inner' took another branch"


def test_switches_of_a_body_are_its_own() -> None:
    runs = Runs(10)
    guarded = node("r[0]/x", guards=(Guard("s", 1),))
    run = runs.add(plan("r", [node("r/a")]), 0.0)
    runs.add(plan("r[0]", [guarded], part_of="r", decided=(("s", 0),)), 0.0)
    runs.add(plan("r[1]", [replace(guarded, key="r[1]/x")], part_of="r"), 0.0)
    assert run is not None
    assert run.skips(runs.calls["r[0]/x"]) is not None
    assert run.skips(runs.calls["r[1]/x"]) is None


def test_a_body_that_is_submitted_again_starts_without_branches() -> None:
    runs = Runs(10)
    run = runs.add(plan("r", [node("r/a")]), 0.0)
    body = plan("r[0]", [node("r[0]/x", guards=(Guard("s", 1),))], part_of="r")
    runs.add(replace(body, decided=(("s", 0),)), 0.0)
    runs.drop("r[0]", 0.0)
    runs.add(body, 0.0)
    assert run is not None
    assert run.skips(runs.calls["r[0]/x"]) is None


def test_nodes_of_the_same_names_may_follow_each_other_otherwise_in_another_plan() -> None:
    runs = Runs(10)
    first = runs.add(plan("1", [node("1/a"), node("1/b", after=("a",))]), 0.0)
    second = runs.add(plan("2", [node("2/a"), node("2/b")]), 0.0)
    assert first is not None
    assert second is not None
    assert [call.after for run in (first, second) for call in run.report.calls] == [(), ("a",), (), ()]
