"""What the default policy promises to loads that no benchmark plays: small clusters, played in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.scenario import load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

LAW = {"w0": 0.01, "w1": 5e-5, "w2": 2e-4}
CHAT = {"model": "m", "prompt": 500, "output": 100, "answers": True}


def played(workflows: dict[str, Any], *, policy: str = "slack", **more: Any) -> dict[str, list[Outcome]]:
    """Outcomes of a minute by workflow, on two cards of eight slots unless told otherwise."""
    document = {
        "version": 1,
        "name": "promises",
        "cards": {"X": {"count": 2}},
        "models": {"m": {"on": {"X": {"slots": 8, "plain": LAW}}}},
        "arrivals": {"kind": "poisson", "rate": 2.0, "duration_s": 60},
        "workflows": workflows,
        **more,
    }
    scenario = load_scenario(document)
    found: dict[str, list[Outcome]] = {}
    for outcome in World(scenario, policy, Workload(scenario, 1).runs(), 1).play():
        found.setdefault(outcome.run.workflow, []).append(outcome)
    return found


def in_time(outcomes: list[Outcome]) -> float:
    return sum(outcome.met for outcome in outcomes) / len(outcomes)


def latency_s(outcomes: list[Outcome]) -> float:
    return sum(outcome.finished_at - outcome.run.arrival for outcome in outcomes) / len(outcomes)


@pytest.mark.parametrize(
    ("slo", "nodes"),
    [
        ({"e2e_s": 2.0}, {"a": {**CHAT, "output": {"lognormal": [50, 0.3]}, "max_tokens": 256}}),
        (
            {"ttft_s": 2.0},
            {"r": {**CHAT, "answers": False, "output": 20, "max_tokens": 256}, "a": {**CHAT, "after": ["r"]}},
        ),
    ],
)
def test_runs_of_which_nothing_is_known_are_not_rejected_for_what_they_could_take_at_most(
    slo: dict[str, Any], nodes: dict[str, Any]
) -> None:
    found = played({"w": {"slo": slo, "on_miss": "reject", "nodes": nodes}}, history=0)
    assert in_time(found["w"]) == 1.0


def test_runs_that_may_be_shorter_than_usual_are_not_rejected_while_cards_are_idle() -> None:
    nodes = {"a": {**CHAT, "output": {"lognormal": [200, 0.8], "most": 2000}}}
    found = played(
        {"w": {"slo": {"e2e_s": 2.5}, "on_miss": "reject", "nodes": nodes}},
        arrivals={"kind": "poisson", "rate": 0.5, "duration_s": 120},
    )
    assert in_time(found["w"]) > 0.5


def test_a_run_is_rejected_at_once_if_others_before_it_take_too_long() -> None:
    nodes = {"a": CHAT}
    found = played(
        {"w": {"slo": {"ttft_s": 0.5}, "on_miss": "reject", "nodes": nodes}},
        arrivals={"kind": "poisson", "rate": 40.0, "duration_s": 20},
    )
    rejected = [outcome for outcome in found["w"] if outcome.finished_at == float("inf")]
    assert len(rejected) > 100
    assert all(outcome.is_rejected for outcome in rejected)
    assert sum(not outcome.met for outcome in found["w"]) - len(rejected) < 0.02 * len(found["w"])


@pytest.mark.parametrize(("mine", "theirs"), [(8, 8), (8, 1), (1, 8)])
def test_urgent_calls_of_another_model_on_other_cards_hold_no_job_up(mine: int, theirs: int) -> None:
    urgent = {"a": {**CHAT, "model": "other"}}
    workflows = {
        "chat": {"share": 0.8, "slo": {"ttft_s": 1.0}, "nodes": urgent},
        "job": {"share": 0.2, "nodes": {"a": {**CHAT, "output": 400}}},
    }
    more = {
        "cards": {"X": {"count": 2}, "Y": {"count": 2}},
        "models": {
            "m": {"on": {"X": {"slots": mine, "plain": LAW}}},
            "other": {"on": {"Y": {"slots": theirs, "plain": LAW}}},
        },
    }
    slack, greedy = (played(workflows, policy=policy, **more) for policy in ("slack", "greedy"))
    assert latency_s(slack["job"]) < 1.2 * latency_s(greedy["job"])
    assert in_time(slack["chat"]) >= in_time(greedy["chat"])


@pytest.mark.parametrize(("slots", "count", "rate"), [(8, 2, 14.0), (1, 4, 4.0)])
def test_plain_code_after_the_last_call_is_a_part_of_what_a_run_takes(slots: int, count: int, rate: float) -> None:
    slo, short = {"e2e_s": 5.5}, {**CHAT, "prompt": 300, "output": 80}
    tail = {"a": {**short, "answers": False}, "after": {"seconds": 4.0, "after": ["a"]}}
    found = played(
        {"plain": {"slo": slo, "nodes": {"a": short}}, "tail": {"slo": slo, "nodes": tail}},
        cards={"X": {"count": count}},
        models={"m": {"on": {"X": {"slots": slots, "plain": LAW}}}},
        arrivals={"kind": "poisson", "rate": rate, "duration_s": 60},
    )
    assert in_time(found["tail"]) > 0.9  # 0.73 and 0.82 under `greedy`
    assert in_time(found["plain"]) > 0.95
