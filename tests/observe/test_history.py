"""What is remembered of a machine; that counts are exact under random histories is in tests/runtime/shell.py."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.observe import census, totals
from dask_fmware.observe.figures import SHOWN, Figures, slack_labels
from dask_fmware.observe.history import NAMES, OTHERS, History
from dask_fmware.observe.layout import graph_of
from dask_fmware.observe.window import ALL, Culprit, Window
from dask_fmware.runtime import (
    CallRunnable,
    FirstToken,
    ReplicaDraining,
    ReplicaGone,
    ReplicaReady,
    RunDropped,
    RunEnded,
    Tick,
)
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.runtime.builders import Driver, assigned, node, plan, replica
from tests.runtime.test_ahead import CALL_S, taught
from tests.runtime.test_corrections import PROFILE
from tests.simulation.test_world import scenario


@pytest.fixture
def driver() -> Driver:
    made = Driver("greedy")
    made.machine.observers.append(History(made.machine))
    return made


def history(driver: Driver) -> History:
    (found,) = driver.machine.observers
    assert isinstance(found, History)
    return found


def one_run(driver: Driver, run_id: str, at: float, took_s: float, slo_s: float = 1.0) -> None:
    call = f"{run_id}/answer"
    driver.now = at
    driver.submit(plan(run_id, [node(call, answers=True)], objective=Objective(ttft_s=slo_s)))
    driver.runnable(call)
    driver.tell(FirstToken(call, 1, took_s / 2), at=at + took_s / 2)
    driver.now = at + took_s
    driver.end(call, prompt_tokens=20, output_tokens=10, ttft_s=took_s / 2)
    driver.tell(RunEnded(run_id, "finished"))


def shown(live: dict[str, Any], node: str) -> dict[str, Any]:
    """What is shown of a node, by column."""
    columns = live["nodes"]["rag"]
    return {name: column[columns["node"].index(node)] for name, column in columns.items()}


def test_runs_are_judged_by_workflow_and_tenant_and_leave_the_window(driver: Driver) -> None:
    driver.ready(replica("r0"))
    one_run(driver, "a", 1000.0, 0.4)
    one_run(driver, "b", 1010.0, 4.0)
    recent = history(driver).window.total(1000.0)
    assert recent.submitted == 2
    assert recent.output_tokens == 20
    for group in (ALL, ("workflow", "rag"), ("tenant", "default")):
        tally = recent.tallies[group]
        assert (tally.ended, tally.met, tally.missed, tally.goodput()) == (2, 1, 1, 0.5)
    assert recent.tallies[ALL].ttft.quantiles((0.5, 1.0)) == pytest.approx([0.2, 2.0], rel=0.03)
    [(culprit, figures)] = recent.misses.items()
    assert (culprit.node, culprit.card, culprit.cause) == ("answer", "r0/0", "run")
    assert figures[0] == 1
    assert history(driver).window.total(1100.0).tallies[ALL].ended == 0


def test_a_run_that_is_dropped_after_its_end_is_counted_once(driver: Driver) -> None:
    driver.ready(replica("r0"))
    one_run(driver, "a", 10.0, 0.4)
    driver.tell(RunDropped("a"))
    assert history(driver).totals.runs == {("rag", "default", "finished"): 1}
    assert history(driver).live_runs == 0


def test_runs_that_are_cancelled_are_counted_also_where_no_reports_are_kept() -> None:
    driver = Driver("greedy", keep_runs=0)
    seen = History(driver.machine)
    driver.machine.observers.append(seen)
    driver.start("a")
    driver.tell(RunDropped("a"))
    assert seen.totals.runs == {("rag", "default", "cancelled"): 1}
    assert seen.window.total(0.0).tallies[ALL].ended == 1


def test_busy_time_is_that_of_slots_also_while_attempts_run_and_when_a_replica_is_lost(driver: Driver) -> None:
    driver.ready(replica("r0", slots=2))
    driver.start("a", "b")
    known = history(driver).replicas["r0"]
    assert known.busy_s(3.0) == 6.0
    driver.now = 4.0
    driver.end("a")
    driver.tell(ReplicaGone("tcp://r0"), at=5.0)
    assert known.busy_s(9.0) == 9.0
    assert (known.finished, known.lost, known.running) == (1, 1, 0)


def test_calls_under_way_while_their_replica_is_profiled_are_not_lost(driver: Driver) -> None:
    driver.ready(replica("r0"))
    driver.start("a")
    driver.tell(ReplicaReady(replace(replica("r0"), profile=PROFILE)), at=1.0)
    known, counted = history(driver).replicas["r0"], history(driver).totals.call_duration
    assert (known.lost, known.running) == (0, 1)
    driver.now = 2.0
    driver.end("a")
    assert (known.finished, known.lost, known.running) == (1, 0, 0)
    assert known.busy_s(9.0) == 2.0
    assert sum(counted["small", "cpu"].counts) == 1
    assert history(driver).window.total(0.0).calls == 1


def test_calls_of_an_engine_that_started_again_are_lost_and_those_that_it_is_given_at_once_are_not(
    driver: Driver,
) -> None:
    driver.ready(replica("r0"))
    driver.start("a", "b")
    assert assigned(driver.ready(replace(replica("r0"), incarnation=1))) == [("b", "tcp://r0", 1)]
    known = history(driver).replicas["r0"]
    assert (known.lost, known.running) == (1, 1)
    driver.end("b")
    assert (known.finished, known.lost, known.running) == (1, 1, 0)


def test_an_attempt_of_a_dropped_run_does_not_hold_its_slot_beside_that_of_the_run_submitted_again(
    driver: Driver,
) -> None:
    driver.ready(replica("r0"))
    driver.start("a")
    driver.tell(RunDropped("a"))
    driver.start("a")  # waits for the slot, which the first still has
    assert assigned(driver.ready(replace(replica("r0"), incarnation=1))) == [("a", "tcp://r0", 1)]
    known = history(driver).replicas["r0"]
    assert (known.lost, known.running) == (1, 1)
    driver.end("a")
    assert (known.finished, known.lost, known.running) == (1, 1, 0)


def test_names_beyond_the_bound_are_counted_together(driver: Driver) -> None:
    made = history(driver)
    assert [made.name("tenant", f"t{i}") for i in range(NAMES + 2)][-3:] == [f"t{NAMES - 1}", OTHERS, OTHERS]
    assert made.name("tenant", "t3") == "t3"


def test_misses_of_ever_new_nodes_have_a_bounded_number_of_series(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "CULPRITS", 3)
    made = history(driver).totals
    for i in (*range(5), 0, 4):
        made.missed(Culprit("rag", f"doc-{i}", "run", "cpu", f"job-{i}"))
    assert {(culprit.node, culprit.card): runs for culprit, runs in made.misses.items()} == {
        ("doc-0", "job-0"): 2, ("doc-1", "job-1"): 1, ("doc-2", "job-2"): 1, (OTHERS, OTHERS): 3,
    }  # fmt: skip


def test_a_window_forgets_and_bears_a_clock_that_goes_back() -> None:
    window = Window(step_s=5.0, keep=3)
    for now in (1.0, 6.0, 11.0, 16.0, 3.0):
        window.at(now).submitted += 1
    assert [(b.start, b.submitted) for b in window] == [(5.0, 1), (10.0, 1), (15.0, 2)]


def test_waiting_and_running_calls_are_counted_while_somebody_looks_and_right_at_every_look(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "PATIENCE", 6)
    driver.ready(replica("r0"))
    counts = {("rag", "answer", "running"): 1}
    for number in range(4):
        run_id, call = f"r{number}", f"r{number}/answer"
        driver.submit(plan(run_id, [node(call, answers=True)]))
        driver.runnable(call)
        if number != 2:  # nobody looks: counting ends, and begins again with the next look
            assert history(driver).census.counts == counts
        driver.end(call)
        if number != 2:
            assert not history(driver).census.counts
        driver.tell(RunEnded(run_id, "finished"))
        driver.tell(RunDropped(run_id))


def test_graphs_are_laid_out_in_columns_of_the_longest_chain() -> None:
    nodes = [
        node("r/a"),
        node("r/b"),
        node("r/c", None, after=("a",)),
        node("r/d", after=("a", "b", "c"), answers=True),
    ]
    placed = {n.name: (n.column, n.row) for n in graph_of(nodes)}
    assert placed == {"a": (0, 0), "b": (0, 1), "c": (1, 0), "d": (2, 0)}


def test_the_graph_of_a_workflow_that_was_defined_anew_is_the_new_one(driver: Driver) -> None:
    history = History(driver.machine)
    driver.machine.observers.append(history)
    for run_id, model in (("1", "small"), ("2", "large")):
        driver.submit(plan(run_id, [node(f"{run_id}/a", model)]))
        assert [one.model for one in history.graphs["rag"]] == [model]


def test_figures_of_an_empty_machine_are_plain_json(driver: Driver) -> None:
    figures = Figures(history(driver))
    shown = json.loads(
        json.dumps([figures.live(5.0), figures.fleet(), figures.graphs(), figures.predictions()], allow_nan=False)
    )
    assert shown[0]["verdict"] == {"state": "idle", "headline": "No replica is ready yet", "detail": ""}
    assert shown[1] == []


def test_figures_name_the_node_and_the_card_to_blame(driver: Driver) -> None:
    driver.ready(replica("r0"))
    figures = Figures(history(driver), {"cpu": 3.6})
    for i in range(5):
        one_run(driver, f"slow{i}", 1000.0 + 10 * i, 4.0)
    live = figures.live(1060.0)
    assert live["verdict"]["headline"] == "SLOs are missed"
    assert (
        "node answer of rag, 5 of 5 misses, 5 of them on card r0/0, where it mostly ran too long"
        in live["verdict"]["detail"]
    )
    assert live["tiles"]["attainment"] == 0.0
    assert live["tiles"]["price_per_hour"] == 3.6
    answer = shown(live, "answer")
    assert (answer["calls"], answer["waited_s"], answer["ran_s"]) == (5, 0.0, pytest.approx(4.0))
    assert answer["misses"] == 5
    assert live["culprits"][0]["runs"] == 5
    assert len(live["series"]["time"]) == 180
    assert figures.predictions()["measured"] == pytest.approx([4.0] * 5)
    for i in range(1000):
        one_run(driver, f"quick{i}", 1060.0 + i / 100, 0.005)
    assert figures.live(1071.0)["verdict"]["headline"] == "SLOs are met"


def test_a_call_that_is_ahead_of_its_slot_waits() -> None:
    driver = taught(replica("a"))
    history = History(driver.machine)
    driver.machine.observers.append(history)
    driver.start("a/x", "b/x")
    driver.tell(Tick(), at=1000.0 + CALL_S)
    live = Figures(history).live(1000.0 + CALL_S)
    assert driver.state("b/x") == "running"
    assert (shown(live, "x")["running"], shown(live, "x")["waiting"]) == (1, 1)
    assert (live["tiles"]["running"], live["tiles"]["slots"]) == (1, 1)
    driver.end("a/x", prompt_tokens=10, output_tokens=9, latency_s=CALL_S)
    later = shown(Figures(history).live(driver.now), "x")
    assert (later["running"], later["waiting"]) == (1, 0)


def test_every_card_has_its_misses_also_where_there_are_more_than_are_named(driver: Driver) -> None:
    runs = [f"run{i}" for i in range(SHOWN + 3)]
    driver.ready(*(replica(f"r{i}") for i in range(len(runs))))
    for run_id in runs:
        driver.submit(plan(run_id, [node(f"{run_id}/answer", answers=True)], objective=Objective(ttft_s=0.01)))
        driver.runnable(f"{run_id}/answer")
    driver.now = 3.0
    for run_id in runs:
        driver.end(f"{run_id}/answer", ttft_s=1.0)
        driver.tell(RunEnded(run_id, "finished"))
    live = Figures(history(driver)).live(3.0)
    assert len(live["culprits"]) == SHOWN
    assert live["replicas"]["misses"] == [1] * len(runs)


def test_every_run_that_ended_is_in_the_series_with_or_without_a_verdict(driver: Driver) -> None:
    driver.ready(replica("r0", slots=5))
    driver.start("no-slo", "goes")
    driver.end("no-slo")
    driver.tell(RunEnded("no-slo", "finished"), RunEnded("goes", "cancelled"))
    one_run(driver, "met", 0.0, 0.4)
    one_run(driver, "late", 0.0, 4.0)
    series = Figures(history(driver)).live(5.0)["series"]
    rates = {name: 5 * sum(series[name]) for name in ("met", "missed", "failed", "unjudged")}
    assert rates == {"met": 1, "missed": 1, "failed": 0, "unjudged": 2}


def test_runs_that_were_rejected_are_not_counted_as_failed(driver: Driver) -> None:
    driver.ready(replica("r0"))
    driver.submit(plan("late", [node("late/answer")], objective=Objective(ttft_s=1.0, on_miss="reject")))
    driver.tell(CallRunnable("late/answer"), at=2.0)
    driver.tell(RunEnded("late", "rejected", "too late"), at=2.0)
    figures = Figures(history(driver)).live(2.0)
    tiles = figures["tiles"]
    assert (tiles["failed"], tiles["missed"], tiles["rejected"], tiles["attainment"]) == (0, 0, 1, 0.0)
    assert (sum(figures["series"]["failed"]), sum(figures["series"]["rejected"]) > 0) == (0, True)
    assert [culprit["cause"] for culprit in figures["culprits"]] == ["was rejected as it would be late"]
    assert history(driver).totals.runs == {("rag", "default", "rejected"): 1}


def test_slots_in_use_are_of_those_that_take_calls(driver: Driver) -> None:
    driver.ready(replica("r0", slots=4), replica("r1", slots=1))
    driver.start("a", "b", "c", "d", "e")
    driver.tell(ReplicaDraining("tcp://r0"))
    live = Figures(history(driver)).live(0.0)
    assert (live["tiles"]["running"], live["tiles"]["slots"]) == (1, 1)
    assert live["replicas"]["running"] == [4, 1]


def test_a_replica_that_is_shut_by_a_rate_limit_is_not_shown_as_ready(driver: Driver) -> None:
    driver.ready(replica("r0", slots=4), replica("r1", slots=1))
    driver.start("a")
    for attempt in (1, 2):
        driver.end("a", "retry", attempt, is_sound=True, shut_s=30.0)
        driver.runnable("a")
    driver.tell(ReplicaDraining("tcp://r1"))
    live = Figures(history(driver)).live(10.0)
    assert live["replicas"]["standing"] == {0: "shut by its rate limit for 20 s", 1: "draining"}
    assert live["tiles"]["slots"] == 0
    assert live["verdict"]["headline"] == "No replica serves, 1 call waits"
    driver.tell(ReplicaDraining("tcp://r1", draining=False))
    live = Figures(history(driver)).live(30.0)  # before the machine has looked again
    assert (live["replicas"]["standing"], live["tiles"]["slots"]) == ({}, 5)


def test_slack_of_waiting_calls_is_what_is_left_before_they_must_start(driver: Driver) -> None:
    driver.ready(replica("r0"))
    for i, slo_s in enumerate((100.0, 7.0, 0.5)):
        driver.submit(plan(f"r{i}", [node(f"r{i}/a", answers=True)], objective=Objective(ttft_s=slo_s)))
        driver.runnable(f"r{i}/a")
    slack = Figures(history(driver)).live(3.0)["slack"]
    waiting = dict(zip(slack_labels(), slack["held"], strict=True))
    assert {label: count for label, count in waiting.items() if count} == {"2": 1, "-5": 1}  # the first one runs
    assert slack["parked_total"] == 0


@pytest.mark.parametrize("policy", ["slack", "round_robin"])
def test_a_simulated_cluster_is_seen_as_it_is(policy: str) -> None:
    made = scenario(arrivals={"kind": "poisson", "rate": 3.0, "duration_s": 30.0})
    world = World(made, policy, Workload(made, 1).runs(), 1)
    seen = History(world.machine)
    world.machine.observers.append(seen)
    outcomes = world.play()
    total = seen.window.total(0.0)
    tally = total.tallies[ALL]
    assert tally.ended == len(outcomes) == tally.judged
    assert tally.met == sum(outcome.met for outcome in outcomes)
    assert sum(runs for runs, _ in total.misses.values()) == len(outcomes) - tally.met
    assert total.calls == sum(len(outcome.calls) for outcome in outcomes)
    assert not seen.census.counts
    busy_s = sum(end - start for outcome in outcomes for _, _, start, end in outcome.calls)
    assert sum(known.busy_s(world.now) for known in seen.replicas.values()) == pytest.approx(busy_s)
