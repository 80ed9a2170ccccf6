"""Runs that are late before they end: an outage ends none."""

from __future__ import annotations

import pytest

from dask_fmware.model.plan import Objective
from dask_fmware.observe import late
from dask_fmware.observe.figures import Figures
from dask_fmware.observe.late import AGAIN_S
from dask_fmware.runtime import FirstToken, ReplicaGone, RunDropped, RunEnded
from dask_fmware_scheduler.services.metrics import series
from tests.observe.test_exposition import scraped
from tests.observe.test_history import driver, history, one_run
from tests.runtime.builders import Driver, node, plan, replica

__all__ = ["driver"]  # a fixture

RAG = ("rag", "default")


def begin(driver: Driver, run_id: str, **objective: float) -> str:
    call = f"{run_id}/answer"
    driver.submit(plan(run_id, [node(call, answers=True)], objective=Objective(**objective)))  # type: ignore[arg-type]
    driver.runnable(call)
    return call


def test_while_nothing_serves_slos_are_not_met(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.ready(replica("r0"), replica("r1"))
    figures = Figures(history(driver))
    for number in range(100):
        one_run(driver, f"before{number}", 1000.0 + 0.5 * number, 0.4)
    assert figures.live(1060.0)["verdict"]["state"] == "met"
    driver.tell(ReplicaGone("tcp://r0"), ReplicaGone("tcp://r1"), at=1060.0)
    for number in range(50):
        begin(driver, f"held{number}", ttft_s=1.0)
    assert figures.live(1060.5)["verdict"]["state"] == "risk"
    live = figures.live(1071.0)
    assert live["verdict"] == {
        "state": "missed",
        "headline": "No replica serves, 50 calls wait",
        "detail": "100 of 150 runs were in time in the last 5 minutes; 50 under way are late already.",
    }
    assert (live["tiles"]["attainment"], live["tiles"]["late"]) == (pytest.approx(2 / 3), 50)
    assert [group["attainment"] for group in live["groups"]] == [pytest.approx(2 / 3)] * 2
    found = scraped(lambda: series(history(driver), 1071.0, {}, [("large", "gpu")]), monkeypatch=monkeypatch)
    for kind in ("accelerator=cpu,model=small", "accelerator=gpu,model=large"):
        assert (found[f"fmware_replicas,{kind},state=ready"], found[f"fmware_slots,{kind}"]) == (0, 0)
    assert found["fmware_runs_late,tenant=default,workflow=rag"] == 50


def test_of_the_first_runs_all_are_late_and_goodput_is_0(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.ready(replica("r0"))
    begin(driver, "a", ttft_s=1.0)
    live = Figures(history(driver)).live(5.0)
    assert live["verdict"] == {
        "state": "missed",
        "headline": "SLOs are missed",
        "detail": "0 of 1 runs were in time in the last 5 minutes; 1 under way is late already.",
    }
    assert [(group["kind"], group["attainment"], group["late"]) for group in live["groups"]] == [
        ("workflow", 0.0, 1), ("tenant", 0.0, 1),
    ]  # fmt: skip
    found = scraped(lambda: series(history(driver), 5.0, {}), monkeypatch=monkeypatch)
    judged = "fmware_runs_judged_total,tenant=default,verdict={},workflow=rag"
    assert [found[judged.format(verdict)] for verdict in ("met", "missed")] == [0, 0]


def test_a_run_is_late_by_the_bound_that_it_has_not_kept_until_it_ends(driver: Driver) -> None:
    driver.ready(replica("r0"))
    call, seen = begin(driver, "a", ttft_s=1.0, e2e_s=5.0), history(driver)
    driver.tell(FirstToken(call, 1, 0.5), at=0.5)
    assert not seen.late(4.0)
    assert seen.late(5.1) == {RAG: 1}
    driver.end(call)
    driver.tell(RunEnded("a", "finished"), RunDropped("a"), at=6.0)
    assert not seen.late(6.0)
    assert seen.totals.verdicts == {(*RAG, "met"): 0, (*RAG, "missed"): 1}


def test_a_run_that_loses_its_first_token_with_its_replica_is_late(driver: Driver) -> None:
    driver.ready(replica("r0"))
    call, seen = begin(driver, "a", ttft_s=1.0), history(driver)
    driver.tell(FirstToken(call, 1, 0.5), at=0.5)
    assert not seen.late(2.0)
    driver.tell(ReplicaGone("tcp://r0"), at=3.0)
    assert seen.late(2.1 + AGAIN_S) == {RAG: 1}


def test_runs_without_an_slo_and_runs_that_ended_are_not_waited_for(driver: Driver) -> None:
    driver.ready(replica("r0", slots=2))
    driver.start("background")
    for number in range(100):
        one_run(driver, f"{number}", float(number), 0.4, slo_s=1e6)
    assert not history(driver)._late._runs
    assert not history(driver)._late._heap


def test_one_look_goes_through_a_bounded_number_of_runs(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "AT_ONCE", 10)
    for number in range(25):
        begin(driver, f"{number}", ttft_s=1.0)
    assert [history(driver).late(5.0)[RAG] for _ in range(3)] == [10, 20, 25]
