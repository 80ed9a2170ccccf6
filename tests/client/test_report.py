"""Reports as people read them."""

from __future__ import annotations

from dask_fmware.client.report import Report
from dask_fmware.model.report import AttemptReport, CallReport, RunReport


def test_bodies_of_a_map_are_shown_in_the_order_of_its_items() -> None:
    known = ["first", "map[10].a", "map[2].a", "map[2].inner[1].b", "map[2].inner[0].b", "last", "map[0].a", "map[2].c"]
    calls = [CallReport(name, name, "small", answers=False) for name in known]
    shown = [row["node"] for row in Report(RunReport("r", "rag", "default", 0, 0.0, calls=calls)).rows]
    assert shown == [
        "first", "map[0].a", "map[2].a", "map[2].c", "map[2].inner[0].b", "map[2].inner[1].b", "map[10].a", "last",
    ]  # fmt: skip


def test_the_slack_of_an_answer_is_that_of_its_tightest_bound() -> None:
    tries = [AttemptReport(1, "r", "tcp://r", "A", "A-0", "", 0.0, first_token_at=1.0, ended_at=25.0)]
    answer = CallReport("c", "answer", "m", answers=True, state="finished", runnable_at=0.0, attempts=tries)

    def slack_s(**slo: float) -> float:
        return Report(RunReport("r", "rag", "default", 0, 0.0, calls=[answer], **slo)).rows[0]["slack_s"]  # type: ignore[arg-type, no-any-return]

    assert slack_s(ttft_slo_s=2.0) == 1.0
    assert slack_s(ttft_slo_s=2.0, e2e_slo_s=20.0) == -5.0
    assert slack_s(ttft_slo_s=2.0, e2e_slo_s=30.0) == 1.0


def test_a_run_under_way_shows_the_first_token_of_its_answer_and_not_of_one_that_broke_off() -> None:
    first = AttemptReport(1, "r", "tcp://r", "A", "A-0", "", 0.0, first_token_at=1.0)
    answer = CallReport("c", "answer", "m", answers=True, state="running", runnable_at=0.0, attempts=[first])
    shown = Report(RunReport("r", "rag", "default", 0, 0.0, calls=[answer]))
    assert "first token 1.000 s" in shown.title
    first.outcome = "lost"
    assert "first token" not in shown.title
