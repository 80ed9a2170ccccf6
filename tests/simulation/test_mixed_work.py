"""Interactive runs beside work of other kinds: jobs, long runs with loose objectives, objectives met by luck."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.scenario import load_scenario
from dask_fmware.simulation.tally import measure
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

LAW = {"w0": 0.01, "w1": 0.00005, "w2": 0.0002}  # a token in 10 ms


def call(output: object, **more: object) -> dict[str, object]:
    return {"model": "m", "prompt": 300, "output": output, **more}


CHAT = {"share": 0.9, "slo": {"ttft_s": 1.0}, "nodes": {"a": call(80, answers=True)}}


def document(workflows: dict[str, Any], rate: float, slots: int, cards: int) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "mixed",
        "cards": {"X": {"count": cards}},
        "models": {"m": {"on": {"X": {"slots": slots, "plain": LAW}}}},
        "workflows": workflows,
        "arrivals": {"kind": "poisson", "rate": rate, "duration_s": 40.0},
    }


def played(
    workflows: dict[str, Any], rate: float, slots: int, cards: int, policy: str = "slack"
) -> dict[str, list[Outcome]]:
    scenario = load_scenario(document(workflows, rate, slots, cards))
    found = defaultdict(list)
    for outcome in World(scenario, policy, Workload(scenario, 1).runs(), 1).play():
        found[outcome.run.plan.workflow].append(outcome)
    return found


def goodput(outcomes: list[Outcome]) -> float:
    return sum(one.met for one in outcomes) / len(outcomes)


def test_runs_without_an_objective_say_nothing_of_goodput() -> None:
    """Two thirds that are never late would hide that nearly all of the others are."""
    job = {"share": 2.0, "nodes": CHAT["nodes"]}
    chat = CHAT | {"share": 1.0, "slo": {"ttft_s": 0.05}}
    outcomes = played({"job": job, "chat": chat}, 60.0, 8, 2, "greedy")
    chats = outcomes["chat"]
    told = measure(load_scenario(document({"chat": chat}, 60.0, 8, 2)), [*outcomes["job"], *chats])
    assert told.goodput == goodput(chats) < 0.2
    assert (told.runs, told.judged) == (len(chats) + len(outcomes["job"]), len(chats))
    assert sum(runs for _, runs, _ in told.timeline) == len(chats)
    assert told.scale_curve[0] > 0.0
    alone = measure(load_scenario(document({"job": job}, 60.0, 8, 2)), outcomes["job"])
    assert (alone.goodput, alone.judged) == (1.0, len(outcomes["job"])), "where none has one, all are told of"


def mean_s(outcomes: list[Outcome]) -> float:
    return sum(one.finished_at - one.run.arrival for one in outcomes) / len(outcomes)


@pytest.mark.parametrize(("slots", "cards"), [(1, 16), (8, 2)])
@pytest.mark.parametrize("priority", [0, 5])
def test_a_job_is_served_beside_interactive_runs_and_costs_them_nothing(slots: int, cards: int, priority: int) -> None:
    job = {"share": 0.1, "priority": priority, "nodes": {"a": call(400, answers=True)}}
    found = played({"chat": CHAT, "job": job}, 5.0, slots, cards)
    assert goodput(found["chat"]) == 1.0
    assert mean_s(found["job"]) < 10.0, "alone one takes four to six"


def test_a_run_of_hundreds_of_calls_with_a_loose_objective_lets_tight_ones_pass() -> None:
    items = {"m": call(80, items=300), "s": call(50, after=["m"], answers=True)}
    night = {"share": 0.02, "slo": {"e2e_s": 600.0}, "nodes": items}
    found = played({"chat": {**CHAT, "share": 0.98}, "night": night}, 4.0, 8, 2)
    assert (goodput(found["chat"]), goodput(found["night"])) == (1.0, 1.0)


@pytest.mark.parametrize("e2e_s", [2.5, 3.0, 3.5])
def test_an_objective_that_half_of_the_runs_meet_by_luck_is_met_as_often_as_under_greedy(e2e_s: float) -> None:
    """The mean run takes just as long as it has, and lengths differ: what is expected late is often in time."""
    answer = call({"lognormal": [200, 0.8], "most": 2000}, answers=True)
    workflows = {"chat": {"slo": {"e2e_s": e2e_s}, "share": 1.0, "nodes": {"a": answer}}}
    slack, greedy = (played(workflows, 2.0, 8, 2, policy)["chat"] for policy in ("slack", "greedy"))
    assert goodput(slack) > goodput(greedy) - 0.05
    assert mean_s(slack) < 1.1 * mean_s(greedy)
