"""Who cost a run its objective: by hand, and on every run of a simulated cluster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from dask_fmware.model.report import AttemptReport, CallReport, Failure, RunReport
from dask_fmware.observe.blame import blame, critical_path, decisive_at, node_pattern
from dask_fmware.observe.explain import Neighbour, explain, worst_wait
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World
from tests.simulation.test_world import scenario


def attempt(start: float, end: float | None, *, number: int = 1, card: str = "fast-0", **more: object) -> AttemptReport:
    given: dict[str, object] = {"outcome": "finished" if end is not None else "running", "ended_at": end, **more}
    kind = card.rpartition("-")[0]
    return AttemptReport(number, f"replica-{card}", f"tcp://{card}", kind, card, "least latency", start, **given)  # type: ignore[arg-type]


def call(node: str, runnable: float, *attempts: AttemptReport, **more: object) -> CallReport:
    given: dict[str, object] = {"state": "finished" if attempts else "held", **more}
    return CallReport(
        f"run/{node}", node, "large", bool(given.pop("answers", False)), runnable_at=runnable,
        attempts=list(attempts), **given,
    )  # type: ignore[arg-type]  # fmt: skip


def run(*calls: CallReport, ttft_slo_s: float | None = 1.0, **more: object) -> RunReport:
    last = calls[-1].last if calls else None
    first, end = (last.first_token_at, last.ended_at) if last else (None, None)
    given: dict[str, object] = {
        "state": "finished", "first_token_at": first, "finished_at": end, "calls": list(calls), **more,
    }  # fmt: skip
    return RunReport("run-1", "rag", "default", 0, 100.0, ttft_slo_s=ttft_slo_s, **given)  # type: ignore[arg-type]


def waited_for(report: RunReport, others: Sequence[RunReport], now: float | None = None) -> tuple[Neighbour, ...]:
    wait = worst_wait(report, now)
    assert wait is not None
    for other in others:
        wait.add(other, other.calls)
    return wait.neighbours


REWRITE = attempt(0.0, 0.2, ideal_s=0.2, predicted_s=0.2)


def test_what_came_before_a_retry_is_one_piece_and_to_blame_where_it_cost_most() -> None:
    first = attempt(0.3, 1.0, outcome="failed", error="it broke")
    second = attempt(5.2, 6.0, number=2, first_token_at=5.4, ideal_ttft_s=0.2)
    answer = call("answer", 5.1, first, second, answers=True, after=("rewrite",))
    report = run(call("rewrite", 0.0, REWRITE), answer, failures=(Failure("it broke", 1.0, 5.0),))
    assert [(piece.kind, piece.start_s, piece.end_s) for piece in critical_path(report)] == [
        ("failed", 0.0, 5.0), ("between", 5.0, 5.1), ("wait", 5.1, 5.2), ("run", 5.2, 5.4),
    ]  # fmt: skip
    whom = blame(report)
    assert whom is not None
    assert (whom.cause, whom.node, whom.loss_s) == ("failed", "", 5.0)
    said = str(explain(report))
    assert "It had failed after 1.000 s and was retried after 5.000 s: it broke." in said
    assert "To blame is what came before it was retried: 5.000 s of 5.400 s." in said


def test_a_body_that_failed_before_a_retry_is_not_to_blame_for_the_next_failure() -> None:
    body = call("map[0].each", 0.0, attempt(0.0, 1.0, outcome="failed", error="it broke"), state="failed")
    report = run(body, state="failed", reason="no", finished_at=6.0, failures=(Failure("it broke", 1.0, 5.0),))
    whom = blame(report)
    assert whom is not None
    assert (whom.cause, whom.node) == ("failed", "")
    report.failures = ()
    whom = blame(report)
    assert whom is not None
    assert whom.node == "map[].each"


def test_a_wait_for_a_slot_is_blamed_with_the_card_that_was_waited_for() -> None:
    answer = attempt(2.2, 3.0, first_token_at=2.4, ideal_ttft_s=0.2, ideal_s=0.8, predicted_s=0.9)
    report = run(call("rewrite", 0.0, REWRITE), call("answer", 0.3, answer, answers=True, after=("rewrite",)))
    found = blame(report)
    assert found is not None
    assert (found.cause, found.node, found.card) == ("wait", "answer", "fast-0")
    assert found.loss_s == pytest.approx(1.9)
    assert [(p.kind, p.node) for p in critical_path(report)] == [
        ("run", "rewrite"), ("between", "answer"), ("wait", "answer"), ("run", "answer"),
    ]  # fmt: skip


def test_a_slow_card_is_blamed_even_if_it_kept_to_its_prediction() -> None:
    answer = attempt(0.3, 3.0, card="slow-1", first_token_at=2.3, ideal_ttft_s=0.2, ideal_s=0.8, predicted_s=2.7)
    report = run(call("rewrite", 0.0, REWRITE), call("answer", 0.3, answer, answers=True, after=("rewrite",)))
    found = blame(report)
    assert found is not None
    assert (found.cause, found.node, found.card, found.accelerator) == ("run", "answer", "slow-1", "slow")
    words = str(explain(report))
    assert "missed its SLO: first token after 2.300 s, promised 1 s" in words
    assert "'answer' on card slow-1 (slow): it took 2.000 s" in words
    assert "fastest kind takes 0.200 s, predicted 2.700 s" in words


def test_an_attempt_that_was_lost_is_blamed_with_its_card() -> None:
    lost = attempt(0.3, 2.0, card="slow-0", outcome="lost", error="its worker is gone")
    second = attempt(2.1, 2.6, number=2, first_token_at=2.3, ideal_ttft_s=0.2)
    report = run(call("rewrite", 0.0, REWRITE), call("answer", 0.3, lost, second, answers=True, after=("rewrite",)))
    found = blame(report)
    assert found is not None
    assert (found.cause, found.card) == ("lost", "slow-0")
    assert "its worker is gone" in str(explain(report))


def test_of_parallel_calls_the_one_that_was_waited_for_is_on_the_path() -> None:
    quick = call("quick", 0.0, attempt(0.0, 0.1))
    unrelated = call("unrelated", 0.0, attempt(0.0, 1.45))
    slow = call("slow", 0.0, attempt(0.0, 1.4, card="slow-0", ideal_s=0.3))
    answer = attempt(1.5, 2.0, first_token_at=1.6, ideal_ttft_s=0.1)
    report = run(quick, unrelated, slow, call("answer", 1.5, answer, answers=True, after=("quick", "slow")))
    assert [p.node for p in critical_path(report) if p.kind == "run"] == ["slow", "answer"]


def test_a_run_that_ends_in_a_map_has_the_calls_of_the_map_on_its_path() -> None:
    slow, fast = attempt(0.1, 2.0, card="slow-0", ideal_s=0.5), attempt(0.1, 0.6, ideal_s=0.5)
    report = run(
        call("map[1].each", 0.1, slow), call("map[0].each", 0.1, fast), first_token_at=2.1, finished_at=2.1
    )  # fmt: skip
    found = blame(report)
    assert found is not None
    assert (found.cause, found.node, found.card) == ("run", "map[].each", "slow-0")


def test_plain_code_without_any_call_is_not_said_to_come_after_one() -> None:
    report = run(state="failed", reason="KeyError('x')", finished_at=0.5)
    assert "plain code and hops before any call of a model: 0.500 s of 0.500 s" in str(explain(report))


def test_a_piece_that_lost_nothing_is_not_pointed_at() -> None:
    failed_at_once = run(state="failed", reason="KeyError('x')", finished_at=0.0001)
    assert [row[""] for row in explain(failed_at_once).rows] == [""]
    assert [row[""] for row in explain(run(state="failed", reason="x", finished_at=0.5)).rows] == ["<- most"]


def test_a_run_whose_result_was_lost_after_its_end_is_explained_by_the_call_as_it_first_ran() -> None:
    first = attempt(0.1, 0.4, card="slow-0", first_token_at=0.2, ideal_ttft_s=0.05, ideal_s=0.1)
    again = attempt(2.0, 2.5, number=2, first_token_at=2.1)
    answer = call("answer", 1.0, first, again, answers=True)
    report = run(answer, ttft_slo_s=None, e2e_slo_s=0.2, first_token_at=0.2, finished_at=0.4)
    assert [(p.kind, p.card) for p in critical_path(report)] == [("between", ""), ("run", "slow-0")]


def test_a_run_under_way_is_explained_up_to_now_with_what_it_waits_for() -> None:
    report = run(call("rewrite", 0.0, REWRITE), call("answer", 0.2, answers=True, after=("rewrite",)), state="running")
    busy = run(call("each", 0.0, attempt(0.0, None), state="running"), state="running", ttft_slo_s=None)
    made = explain(report, waited_for(report, [busy], now=103.0), now=103.0)
    assert "is under way, already 2.000 s late" in made.headline
    assert made.worst is not None
    assert (made.worst.kind, made.worst.node) == ("wait", "answer")
    assert made.worst.actual_s == pytest.approx(2.8)
    assert "ran rag.each x1" in str(made)


STREAMS = attempt(0.0, None, first_token_at=1.0, ideal_ttft_s=0.5, ideal_s=5.0)


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        ({"ttft_slo_s": 2.0}, "run-1 is under way"),
        ({"ttft_slo_s": 2.0, "e2e_slo_s": 20.0}, "run-1 is under way, 15.000 s of its SLO left"),
        ({"ttft_slo_s": 0.8, "e2e_slo_s": 20.0}, "run-1 is under way, already 0.200 s late"),
        ({"ttft_slo_s": 0.8, "e2e_slo_s": 4.0}, "run-1 is under way, already 1.000 s late"),
    ],
)
def test_a_run_that_streams_is_late_by_the_bounds_that_it_has_not_kept(slo: dict[str, float], said: str) -> None:
    report = run(
        call("answer", 0.0, STREAMS, answers=True, state="running"), state="running", first_token_at=None, **slo
    )
    assert explain(report, now=105.0).headline == f"rag {said}"


def test_an_objective_is_held_against_the_time_that_it_is_about() -> None:
    answer = attempt(0.0, 25.0, first_token_at=1.0, ideal_ttft_s=0.5, ideal_s=5.0)
    both = {"ttft_slo_s": 2.0, "first_token_at": 1.0, "finished_at": 25.0}
    loose = explain(run(call("answer", 0.0, answer, answers=True), e2e_slo_s=20.0, **both))
    assert "missed its SLO: done after 25.000 s, promised 20 s" in loose.headline
    assert "Even an idle cluster" not in str(loose)
    tight = explain(run(call("answer", 0.0, answer, answers=True), e2e_slo_s=4.0, **both))
    assert "would need 5.000 s for these calls, more than the 4 s promised" in str(tight)


def test_the_whole_of_an_answer_is_not_held_against_a_first_token_that_is_awaited() -> None:
    silent = attempt(0.0, None, ideal_ttft_s=0.5, ideal_s=5.0)
    waiting = run(call("answer", 0.0, silent, answers=True, state="running"), state="running", ttft_slo_s=2.0)
    made = explain(waiting, now=110.0)
    assert "already 8.000 s late" in made.headline
    assert "Even an idle cluster" not in str(made)
    before = attempt(0.0, 9.0, ideal_s=3.0)
    calls = call("rewrite", 0.0, before), call("answer", 9.0, answers=True, state="held", after=("rewrite",))
    early = explain(run(*calls, state="running", ttft_slo_s=2.0), now=109.0)
    assert "would need 3.000 s for these calls, more than the 2 s promised" in str(early)


def test_refused_failed_met_and_cancelled_runs() -> None:
    assert blame(run(state="refused", reason="no model")) is not None
    failed = run(
        call("answer", 0.0, attempt(0.0, 1.0, outcome="failed"), state="failed"), state="failed", reason="it broke"
    )
    found = blame(failed)
    assert found is not None
    assert (found.cause, found.node, found.card) == ("failed", "answer", "fast-0")
    assert "failed at node 'answer' on card fast-0: it broke" in str(explain(failed))
    met = run(call("answer", 0.0, attempt(0.0, 0.5, first_token_at=0.2), answers=True))
    assert blame(met) is None
    assert "met its SLO" in explain(met).headline
    assert blame(run(state="cancelled")) is None


def test_an_explanation_names_the_item_that_failed_and_figures_are_of_all_items() -> None:
    broken = attempt(0.0, 1.0, outcome="failed")
    calls = call("think[0].decide", 0.0, attempt(0.0, 0.5)), call("think[1].decide", 0.0, broken, state="failed")
    failed = run(*calls, state="failed", reason="it broke")
    assert "failed at node 'think[1].decide' on card fast-0: it broke" in str(explain(failed))
    found = blame(failed)
    assert found is not None
    assert found.node == "think[].decide"


def test_a_run_that_was_rejected_did_not_fail() -> None:
    given_up = run(call("answer", 0.5, state="rejected"), state="rejected", reason="too late", finished_at=0.7)
    found = blame(given_up)
    assert found is not None
    assert (found.cause, found.node, given_up.met) == ("rejected", "answer", False)
    words = explain(given_up)
    assert words.headline == "rag run-1 was rejected"
    assert "It was rejected at node 'answer': too late." in words.sentences
    assert "failed" not in str(words)


def test_a_run_that_failed_is_explained_by_its_failure_and_blames_no_node_for_being_late() -> None:
    first = call("first", 0.0, attempt(0.0, 0.5, ideal_s=0.1), answers=True)
    words = str(explain(run(first, state="failed", reason="in plain code up to 'boom': ValueError('boom')")))
    assert "It failed: in plain code up to 'boom'" in words
    assert "To blame" not in words
    assert "Most time was lost by node 'first'" in words


def test_items_of_a_map_are_one_neighbour() -> None:
    waits = run(call("answer", 0.0, answers=True), state="running")
    items = [call(f"each[{i}].item", 0.0, attempt(0.0, None, card=f"fast-{i}"), state="running") for i in range(9)]
    busy = run(*items, state="running", ttft_slo_s=None)
    said = str(explain(waits, waited_for(waits, [busy], now=103.0), now=103.0))
    assert "Meanwhile its replicas ran rag.each[].item x9." in said


def test_an_attempt_that_never_began_is_no_neighbour() -> None:
    waits = run(call("answer", 0.0, attempt(2.0, 2.5, first_token_at=2.2), answers=True))
    gone = attempt(0.0, 1.5, outcome="undelivered")
    other = run(call("each", 0.0, gone, attempt(0.0, 1.0, number=2)), ttft_slo_s=None)
    assert [(n.node, n.attempts, n.busy_s) for n in waited_for(waits, [other])] == [("each", 1, 1.0)]


def test_a_wait_without_any_replica_says_so() -> None:
    answer = attempt(2.0, 2.5, first_token_at=2.2)
    lacked = "no replica of model 'large' was ready"
    said = explain(run(call("answer", 0.0, answer, answers=True, lacked=lacked)))
    assert f"When it began to wait, {lacked}." in said.sentences


def test_an_objective_that_no_card_can_meet_is_said_to_be_one() -> None:
    answer = attempt(0.0, 3.0, first_token_at=2.0, ideal_ttft_s=1.8, ideal_s=2.8)
    assert "tighter than these cards allow" in str(explain(run(call("answer", 0.0, answer, answers=True))))


def test_names_of_users_are_escaped_in_a_notebook() -> None:
    report = run(
        call("<script>alert(1)</script>", 0.0, attempt(0.0, 3.0, first_token_at=2.0, card="<b>-0"), answers=True)
    )
    shown = explain(report)._repr_html_()
    assert "<script>" not in shown
    assert "<b>-0" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("policy", ["greedy", "slack"])
def test_paths_of_simulated_runs_have_no_gap_and_end_at_the_decisive_moment(policy: str) -> None:
    made = scenario()
    world = World(made, policy, Workload(made, 3).runs(), 3)
    reports: list[RunReport] = []

    class Keep:
        def observe(self, event: object, actions: object, now: float) -> None:
            if type(event).__name__ == "RunEnded":
                report = world.machine.report(event.run_id)  # type: ignore[attr-defined]
                assert report is not None
                reports.append(report)

    world.machine.observers.append(Keep())
    world.play()
    assert len(reports) == 12
    for report in reports:
        path = critical_path(report)
        assert path[0].start_s == 0.0
        assert path[-1].end_s == pytest.approx(decisive_at(report))
        assert all(a.end_s == pytest.approx(b.start_s, abs=1e-5) for a, b in pairwise(path))
        assert path[0].node == "ask"
        assert (blame(report) is None) == (report.met is not False)


def test_base_names() -> None:
    assert node_pattern("a[3].b[12].c") == "a[].b[].c"


def test_the_path_of_a_loop_of_twice_as_many_rounds_takes_twice_as_many_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def looking(of: CallReport) -> AttemptReport | None:
        nonlocal looks
        looks += 1
        return last(of)

    def looks_at(rounds: int) -> int:
        nonlocal looks
        looks = 0
        turns = [call(f"loop[{n}].turn", float(n), attempt(n + 0.1, n + 0.9, ideal_s=0.5)) for n in range(rounds)]
        path = critical_path(run(*turns, e2e_slo_s=1.0))
        assert [piece.node for piece in path if piece.kind == "run"] == [turn.node for turn in turns]
        return looks

    last = CallReport.last.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(CallReport, "last", property(looking))
    assert looks_at(400) < 3 * looks_at(200)
