"""The schedule with hindsight and the bound on all schedules, beside every schedule of small instances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dask_fmware.errors import SpecError
from dask_fmware.policy.schedule import Task
from dask_fmware.simulation.bound import most_possible
from dask_fmware.simulation.clairvoyant import most_in_time, true_tasks
from dask_fmware.simulation.scenario import Scenario, WindowArrivals, load_scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

PAPER = load_scenario(Path(__file__).parents[2] / "benchmarks" / "scenarios" / "paper.yaml")


def paper(workflow: str, count: int, window_s: float) -> Scenario:
    arrivals = WindowArrivals(kind="window", count=count, window_s=window_s)
    return PAPER.model_copy(update={"workflows": {workflow: PAPER.workflows[workflow]}, "arrivals": arrivals})


def exact(jobs: Sequence[Sequence[Task]]) -> int:
    """Most jobs in time of all schedules: every order of calls and every card, each call as early as it can be."""
    best = 0

    def extend(at: list[tuple[int, float]], free: tuple[float, float], open_: tuple[int, ...], met: int) -> None:
        nonlocal best
        best = max(best, met)
        if met + len(open_) <= best:
            return
        for job in open_:
            number, ready = at[job]
            tasks = jobs[job]
            while number < len(tasks) and not tasks[number].calls:
                ready, number = ready + tasks[number].after_s, number + 1
            (times,) = tasks[number].calls
            for lane in (0, 1):
                assert times[lane] is not None
                due_s, whole_s = times[lane]
                start = max(ready, free[lane])
                if start + due_s > tasks[number].due:
                    continue
                then = list(at)
                then[job] = number + 1, start + whole_s
                after = (start + whole_s, free[1]) if lane == 0 else (free[0], start + whole_s)
                if tasks[number].answers:
                    extend(then, after, tuple(j for j in open_ if j != job), met + 1)
                else:
                    extend(then, after, open_, met)
            extend(at, free, tuple(j for j in open_ if j != job), met)
            if number == 0:
                return  # jobs are alike: it is enough to begin with the first that has not begun, or to leave it out

    extend([(0, tasks[0].ready) for tasks in jobs], (0.0, 0.0), tuple(range(len(jobs))), 0)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_the_search_is_exact_on_small_instances_and_the_bound_is_none_too_low(seed: int) -> None:
    scenario = paper("rag", 4, 0.5).model_copy(update={"lengths": "deterministic"})
    runs = Workload(scenario, seed).runs()
    most = exact(true_tasks(scenario, runs))
    assert 1 <= most < 4
    assert most_in_time(scenario, runs, tries=300) == most <= most_possible(scenario, runs)
    assert most <= most_possible(scenario, runs, nodes=50) <= most_possible(scenario, runs)


@pytest.mark.parametrize("workflow", ["rag", "shopping"])
def test_no_policy_is_above_the_schedule_and_no_schedule_above_the_bound(workflow: str) -> None:
    scenario = paper(workflow, 14, 10.0)
    runs = Workload(scenario, 3).runs()
    met = sum(o.met for o in World(scenario, "slack", runs, 3).play())
    found = most_in_time(scenario, runs, met)
    assert met <= found <= most_possible(scenario, runs) <= 14


def test_light_load_is_bounded_by_all_runs() -> None:
    scenario = paper("shopping", 3, 30.0)
    runs = Workload(scenario, 0).runs()
    assert most_in_time(scenario, runs) == most_possible(scenario, runs) == 3


def test_cards_that_batch_have_neither() -> None:
    scenario = paper("rag", 3, 1.0)
    cards = {name: card.model_copy(update={"slots": 4}) for name, card in scenario.cards.items()}
    with pytest.raises(SpecError, match="serial cards only"):
        most_possible(scenario.model_copy(update={"cards": cards}), Workload(scenario, 0).runs())


CALL = {"model": "m", "prompt": 1, "output": 5}  # half a second, the first token after a tenth
ANSWER = {**CALL, "answers": True}


@pytest.mark.parametrize(
    ("nodes", "slo", "more", "met"),
    [
        ({"a": {**ANSWER, "seconds": 1.0}}, {"ttft_s": 0.5}, {}, 0),
        ({"a": CALL, "b": {**ANSWER, "after": ["a"]}}, {"ttft_s": 0.7}, {"hop_s": 0.2}, 0),
        ({"a": ANSWER, "code": {"seconds": 1.0, "after": ["a"]}}, {"e2e_s": 1.0}, {}, 0),
        ({"a": CALL, "code": {"seconds": 1.0, "after": ["a"]}}, {"ttft_s": 1.0}, {}, 0),
        ({"a": CALL}, {"ttft_s": 0.4}, {}, 0),
        ({"a": ANSWER, "log": {**CALL, "after": ["a"]}}, {"ttft_s": 0.2}, {}, 1),
        ({"a": CALL, "b": {**ANSWER, "after": ["a"]}, "c": {**CALL, "output": 90}}, {"ttft_s": 0.7}, {}, 1),
    ],
)
def test_schedule_and_bound_know_what_a_run_is_due_with(
    nodes: dict[str, object], slo: dict[str, float], more: dict[str, object], met: int
) -> None:
    made = load_scenario(
        {
            "cards": {"card": {"slots": 1, "count": 2}},
            "models": {"m": {"on": {"card": {"plain": {"w0": 0.1}}}}},
            "workflows": {"one": {"slo": slo, "nodes": nodes}},
            "arrivals": {"kind": "window", "count": 1, "window_s": 1.0},
            **more,
        }
    )
    runs = Workload(made, 0).runs()
    assert sum(o.met for o in World(made, "greedy", runs).play()) == met
    assert met == most_in_time(made, runs) <= most_possible(made, runs)


def test_a_card_without_the_model_runs_none_of_its_calls() -> None:
    scenario = paper("rag", 6, 1.0)
    small = scenario.models["small"]
    absent = small.model_copy(update={"on": {n: h.model_copy(update={"replicas": 0}) for n, h in small.on.items()}})
    gone = {"A40": absent.on["A40"], "A100": small.on["A100"]}
    without = scenario.model_copy(
        update={"models": {**scenario.models, "small": small.model_copy(update={"on": gone})}}
    )
    times = [task.calls[0] for job in true_tasks(without, Workload(without, 0).runs()) for task in job[:1]]
    assert all(on_a100 is not None and on_a40 is None for on_a100, on_a40 in times)


@pytest.mark.parametrize(
    "change", [{"delivery_s": 0.1}, {"failures": [{"card": "A40-0", "at_s": 1.0}]}, {"load_s": 3.0}]
)
def test_a_cluster_that_changes_has_no_schedule(change: dict[str, object]) -> None:
    document = paper("rag", 3, 1.0).model_dump(mode="json", exclude_defaults=True)
    if "load_s" in change:
        document["models"]["small"]["on"]["A40"]["load_s"] = change["load_s"]
    made = load_scenario(document | {k: v for k, v in change.items() if k != "load_s"})
    with pytest.raises(SpecError, match="knows no failures"):
        most_in_time(made, Workload(made, 0).runs())
