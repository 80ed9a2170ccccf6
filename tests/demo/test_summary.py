import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.demo.summary import percentile, summarise
from dask_fmware.model.report import AttemptReport, CallReport, RunReport


def attempt(accelerator="fast", number=1):
    return AttemptReport(number, f"small-{accelerator}-0", "tcp://a", accelerator, f"{accelerator}-0", "", 0.0)


def call(node, *attempts, state="finished"):
    return CallReport(f"id {node}", node, "small", answers=False, state=state, attempts=list(attempts))


def run(workflow="rag", *, first=0.5, done=1.0, state="finished", reason="", calls=()):
    return RunReport(
        "id", workflow, "default", 0, 0.0, state, reason, ttft_slo_s=1.0, first_token_at=first, finished_at=done,
        calls=list(calls),
    )  # fmt: skip


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentile_agrees_with_numpy(values, q):
    import numpy as np

    assert percentile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-9, abs=1e-9)


def test_goodput_is_the_share_of_all_runs_that_met_their_slo():
    runs = [run(), run(first=1.5, done=2.0), run(state="failed", reason="no room"), run("shopping")]
    made = summarise(runs)
    assert (made.total.runs, made.total.finished, made.total.met) == (4, 3, 2)
    assert made.total.goodput == 0.5
    assert [(w.workflow, w.met, w.runs) for w in made.workflows] == [("rag", 1, 3), ("shopping", 1, 1)]
    assert made.failures == ("rag: failed, no room",)


def test_latencies_are_those_of_finished_runs():
    made = summarise([run(first=0.2, done=0.4), run(first=0.4, done=0.8), run(state="failed", first=9.0, done=9.0)])
    assert made.total.ttft_s.p50 == pytest.approx(0.3)
    assert made.total.latency_s.p50 == pytest.approx(0.6)


def test_calls_are_counted_by_node_whatever_map_or_loop_they_are_in():
    calls = [call("map[0].pitch", attempt()), call("map[1].pitch", attempt("slow")), call("intent", attempt())]
    made = summarise([run("shopping", calls=calls)])
    assert {shares.node: shares.by_accelerator for shares in made.nodes} == {
        "intent": {"fast": 1},
        "pitch": {"fast": 1, "slow": 1},
    }
    assert (made.calls, made.by_accelerator) == (3, {"fast": 2, "slow": 1})


def test_skipped_calls_are_no_calls():
    assert summarise([run(calls=[call("order", state="skipped")])]).calls == 0


def test_further_attempts_are_retries_and_the_last_one_counts():
    made = summarise([run(calls=[call("answer", attempt("fast"), attempt("slow", 2))])])
    assert (made.retries, made.by_accelerator) == (1, {"slow": 1})


def test_an_attempt_that_never_began_is_no_retry():
    undelivered = attempt("fast")
    undelivered.outcome = "undelivered"
    made = summarise([run(calls=[call("answer", undelivered, attempt("slow", 2)), call("never", undelivered)])])
    assert (made.retries, made.calls, made.by_accelerator) == (0, 1, {"slow": 1})


def test_accelerator_without_calls_is_shown():
    assert summarise([run(calls=[call("answer", attempt())])], ["fast", "slow"]).by_accelerator == {
        "fast": 1,
        "slow": 0,
    }


def test_nothing_has_no_figures():
    made = summarise([])
    assert (made.total.goodput, made.total.ttft_s.p50, made.workflows) == (0.0, None, ())


def test_pace_of_a_card_is_the_median_over_calls_long_enough():
    def paced(node, seconds, tokens):
        made = attempt()
        made.first_token_at, made.ended_at, made.output_tokens = 1.0, 1.0 + seconds, tokens
        return call(node, made)

    calls = [paced("a", 0.1, 11), paced("b", 0.3, 11), paced("c", 0.2, 11), paced("d", 9.0, 2)]
    assert summarise([run(calls=calls)]).token_s == pytest.approx({"fast": 0.02})
