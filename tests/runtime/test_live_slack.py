"""What a run under way has left, recomputed at node completion, branch decision and token progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fmware.model.messages import StepsTimed
from dask_fmware.model.plan import Guard, Objective
from dask_fmware.runtime import AttemptEnded, Branched, FirstToken, RunDropped, RunEnded
from tests.runtime.builders import Driver, node, plan, replica

TOKEN_S, FIRST_S = 0.01, 0.1  # of the replicas that `builders.replica` makes


def past(driver: Driver, lengths: dict[str, list[int]]) -> None:
    """Output tokens of finished calls, by node."""
    for name, tokens in lengths.items():
        for count in tokens:
            driver.machine.knowledge.observe_call("rag", name, 0, count)
    driver.machine.knowledge.settle()


def chain(driver: Driver, deadline_s: float = 10.0, run: str = "r") -> None:
    """Two calls after each other, the second of which answers; submitted at the driver's time."""
    nodes = (node(f"{run}/first", max_tokens=90), node(f"{run}/second", after=("first",), max_tokens=90))
    driver.submit(plan(run, nodes, objective=Objective(e2e_s=deadline_s)))


def ended(driver: Driver, call_id: str, tokens: int) -> None:
    driver.tell(AttemptEnded(call_id, 1, "finished", 0, tokens))


def test_latest_start_is_deadline_minus_what_follows_minus_own_execution() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    past(driver, {"first": [20] * 10, "second": [30] * 10})
    chain(driver)
    left = dict(driver.machine.slack("r", 1.0))
    own_s, after_s = FIRST_S + 20 * TOKEN_S, FIRST_S + 30 * TOKEN_S
    assert left["r/second"].latest_start == pytest.approx(10.0 - after_s)
    assert left["r/first"].latest_start == pytest.approx(10.0 - after_s - own_s)
    assert left["r/first"].slack_s == pytest.approx(left["r/first"].latest_start - 1.0)


def test_a_higher_quantile_reckons_with_longer_outputs() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    past(driver, {"first": [10] * 50, "second": [10] * 25 + [80] * 25})
    chain(driver)
    usual, unlucky = (dict(driver.machine.slack("r", 0.0, q))["r/first"].slack_s for q in (0.4, 0.9))
    assert usual - unlucky == pytest.approx(70 * TOKEN_S)


def test_without_a_history_outputs_are_as_long_as_they_may_be() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    chain(driver)
    assert dict(driver.machine.slack("r", 0.0))["r/second"].slack_s == pytest.approx(10.0 - FIRST_S - 90 * TOKEN_S)


def test_tokens_that_come_move_the_expected_end() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    past(driver, {"first": [20] * 10, "second": [30] * 10})
    chain(driver)
    driver.runnable("r/first")
    after_s = FIRST_S + 30 * TOKEN_S
    assert dict(driver.machine.slack("r", 0.1))["r/first"].slack_s == pytest.approx(
        10.0 - after_s - FIRST_S - 20 * TOKEN_S
    )
    driver.tell(StepsTimed("tcp://a", tokens=(("r/first", 1, 5),)), at=2.0)  # it is slow
    assert dict(driver.machine.slack("r", 2.0))["r/first"].slack_s == pytest.approx(10.0 - after_s - 2.0 - 15 * TOKEN_S)
    driver.tell(StepsTimed("tcp://a", tokens=(("r/first", 1, 19),)), at=2.0)
    assert dict(driver.machine.slack("r", 2.0))["r/first"].slack_s == pytest.approx(10.0 - after_s - 2.0 - 1 * TOKEN_S)
    ended(driver, "r/first", 20)
    assert set(dict(driver.machine.slack("r", 2.1))) == {"r/second"}


def test_a_call_that_takes_longer_than_expected_loses_slack_as_time_goes_by() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    past(driver, {"first": [20] * 10, "second": [30] * 10})
    chain(driver)
    driver.runnable("r/first")
    slack = [dict(driver.machine.slack("r", now))["r/first"].slack_s for now in (0.0, 0.2, 1.0, 2.0)]
    assert slack[0] == slack[1] > slack[2] > slack[3]
    assert slack[2] - slack[3] == pytest.approx(1.0)


def test_an_answer_that_has_begun_is_awaited_for_the_bounds_that_are_left() -> None:
    driver = Driver()
    driver.ready(replica("a", slots=3))
    past(driver, {"answer": [20] * 10})
    for run, objective in (
        ("begin", Objective(ttft_s=2.0)),
        ("both", Objective(ttft_s=2.0, e2e_s=20.0)),
        ("late", Objective(ttft_s=0.5, e2e_s=20.0)),
    ):
        driver.submit(plan(run, [node(f"{run}/answer", answers=True, max_tokens=90)], objective=objective))
        driver.runnable(f"{run}/answer")
    for run in ("begin", "both", "late"):
        assert dict(driver.machine.slack(run, 0.1))[f"{run}/answer"].slack_s < 2.0
        driver.tell(FirstToken(f"{run}/answer", 1, 1.0), at=1.0)
        driver.tell(StepsTimed("tcp://a", tokens=((f"{run}/answer", 1, 5),)), at=1.0)
    assert dict(driver.machine.slack("begin", 5.0)) == {}, "what it was promised it has"
    assert dict(driver.machine.slack("both", 1.0))["both/answer"].slack_s == pytest.approx(20.0 - 1.0 - 15 * TOKEN_S)
    assert dict(driver.machine.slack("late", 5.0))["late/answer"].slack_s == pytest.approx(-0.5)


def branching(driver: Driver) -> None:
    nodes = (
        node("r/ask"),
        node("r/brief", after=("ask",), guards=(Guard("which", 0),), max_tokens=5),
        node("r/long", after=("ask",), guards=(Guard("which", 1),), max_tokens=90),
    )
    driver.submit(plan("r", nodes, objective=Objective(e2e_s=10.0)))


def test_a_branch_that_is_taken_decides_what_follows() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    branching(driver)
    before = dict(driver.machine.slack("r", 0.0))["r/ask"].slack_s
    driver.tell(Branched("r", "which", 0))
    after = dict(driver.machine.slack("r", 0.0))
    assert after["r/ask"].slack_s - before == pytest.approx(85 * TOKEN_S)
    assert "r/long" not in after


def test_a_branch_that_hardly_anybody_takes_does_not_count() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    branching(driver)
    before = dict(driver.machine.slack("r", 0.0))["r/ask"].slack_s
    for _ in range(50):
        driver.machine.knowledge.branches.observe("rag", "which", 0)
    assert dict(driver.machine.slack("r", 0.0))["r/ask"].slack_s > before


def test_of_a_map_of_many_items_paths_are_worked_out_once_for_each_way_that_switches_may_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    driver.ready(replica("a"))
    nodes = [node("r/m", None)]
    for guard in (Guard("which", 0), Guard("which", 1)):
        nodes.append(node(f"r/end{guard.branch}", after=("m",), guards=(guard,), max_tokens=10 + 50 * guard.branch))
    driver.submit(plan("r", nodes, objective=Objective(e2e_s=10.0)))
    driver.submit(*[plan(f"b{n}", [node(f"b{n}/m[{n}].each", max_tokens=10)], part_of="r") for n in range(100)])
    longest, asked = driver.machine.knowledge._longest, []
    monkeypatch.setattr(driver.machine.knowledge, "_longest", lambda *of: asked.append(of) or longest(*of))
    found = dict(driver.machine.slack("r", 0.0))
    assert (len(found), len(asked)) == (102, 2)
    each_s, end_s = FIRST_S + 10 * TOKEN_S, FIRST_S + 60 * TOKEN_S
    [slack_s] = {found[f"b{n}/m[{n}].each"].slack_s for n in range(100)}
    assert slack_s == pytest.approx(10.0 - end_s - each_s)


def test_what_is_over_or_has_no_deadline_has_no_slack() -> None:
    driver = Driver()
    driver.ready(replica("a"))
    chain(driver)
    driver.submit(plan("free"))
    assert dict(driver.machine.slack("free", 0.0)) == {}
    assert dict(driver.machine.slack("unknown", 0.0)) == {}
    driver.tell(RunEnded("r", "failed", "no"))
    assert dict(driver.machine.slack("r", 0.0)) == {}
    driver.tell(RunDropped("r"))
    assert dict(driver.machine.slack("r", 0.0)) == {}


@given(
    st.lists(st.integers(1, 90), min_size=5, max_size=20),
    st.floats(0.1, 100),
    st.floats(0, 100),
    st.floats(0, 50),
    st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
)
def test_more_deadline_never_means_less_slack_and_more_certainty_never_more(
    lengths: list[int], deadline_s: float, more_s: float, now: float, quantiles: tuple[float, float]
) -> None:
    driver = Driver()
    driver.ready(replica("a", slots=2))
    past(driver, {"first": lengths, "second": lengths})
    chain(driver, deadline_s, "tight")
    chain(driver, deadline_s + more_s, "wide")
    driver.runnable("tight/first", "wide/first")
    low, high = sorted(quantiles)
    for name in ("first", "second"):
        tight = dict(driver.machine.slack("tight", now, low))[f"tight/{name}"].slack_s
        assert dict(driver.machine.slack("wide", now, low))[f"wide/{name}"].slack_s >= tight - 1e-9
        assert dict(driver.machine.slack("tight", now, high))[f"tight/{name}"].slack_s <= tight + 1e-9
