"""The simulated cluster: theory, determinism, the contract of runs, and what policies make of the same arrivals."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from math import inf
from statistics import fmean

import pytest
from scipy import stats

from dask_fmware.errors import RuntimeFaultError
from dask_fmware.policy import POLICIES, Wait
from dask_fmware.policy.round_robin import RoundRobin
from dask_fmware.simulation.clairvoyant import most_in_time
from dask_fmware.simulation.report import Cell, Interval, crossing, interval
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.tally import measure
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

SERIAL = {
    "cards": {"fast": {"slots": 1, "price_per_hour": 2.0}, "slow": {"slots": 1}},
    "models": {
        m: {"on": {"fast": {"plain": {"w0": w}}, "slow": {"plain": {"w0": 2 * w}}}}
        for m, w in (("small", 0.01), ("large", 0.02))
    },
    "workflows": {
        "chain": {
            "slo": {"on": "fast", "plus_s": 0.5},
            "nodes": {
                "ask": {"model": "small", "prompt": 50, "output": 10, "decides": {"a": 0.5, "b": 0.5}},
                "each": {
                    "model": "small", "prompt": 20, "output": {"uniform": [2, 6]}, "items": 3, "when": {"ask": "a"},
                },
                "turn": {"model": "small", "prompt": 20, "output": 4, "rounds": 2, "when": {"ask": "b"}},
                "join": {"seconds": 0.01, "after": ["each", "turn"]},
                "answer": {"model": "large", "prompt": 100, "output": 20, "after": ["join"], "answers": True},
            },
        }
    },
    "arrivals": {"kind": "window", "count": 12, "window_s": 5.0},
    "history": 20,
}  # fmt: skip


def scenario(**changes: object) -> Scenario:
    return Scenario.model_validate({**SERIAL, **changes})


def play(policy: str, seed: int = 0, **changes: object):
    made = scenario(**changes)
    return World(made, policy, Workload(made, seed).runs(), seed).play()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_run_ends_once_and_no_call_is_lost(policy: str) -> None:
    outcomes = play(policy)
    assert len(outcomes) == 12
    assert all(o.finished_at < inf and o.first_token_at <= o.finished_at for o in outcomes)
    for outcome in outcomes:
        expected = sum(len(node.calls) for node in outcome.run.nodes if node.taken)
        assert len(outcome.calls) == expected


def test_a_policy_that_raises_ends_the_simulation_with_its_error() -> None:
    class Broken(RoundRobin):
        name = "broken"

        def choose(self, call, replicas, now):
            raise ZeroDivisionError("nothing to divide by")

    made = scenario()
    with pytest.raises(RuntimeFaultError, match=r"policy 'broken': choose raised ZeroDivisionError") as caught:
        World(made, Broken(), Workload(made, 0).runs()).play()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("later_s", [-1.0, 0.0, 1.0])
def test_a_policy_that_lets_calls_wait_for_ever_ends_the_simulation_with_runs_that_never_end(later_s: float) -> None:
    class Idle(RoundRobin):
        name = "idle"

        def choose(self, call, replicas, now):
            return Wait("later", until=now + later_s)

    made = scenario()
    outcomes = World(made, Idle(), Workload(made, 0).runs()).play()
    assert [outcome.never_ended for outcome in outcomes] == [True] * 12


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_serial_card_runs_one_call_at_a_time(policy: str) -> None:
    stays: dict[str, list[tuple[float, float]]] = {}
    for outcome in play(policy):
        for _, accelerator, start, end in outcome.calls:
            stays.setdefault(accelerator, []).append((start, end))
    for one in stays.values():
        one.sort()
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(one))


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_equal_seeds_play_alike(policy: str) -> None:
    def told(seed: int) -> list[tuple[float, float]]:
        return [(o.first_token_at, o.finished_at) for o in play(policy, seed)]

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_all_policies_get_the_same_runs() -> None:
    runs = [Workload(scenario(), 5).runs() for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_lost_card_comes_back_and_its_calls_run_elsewhere() -> None:
    outcomes = play("slack", failures=[{"card": "fast-0", "at_s": 1.0, "down_s": 2.0}])
    assert all(o.finished_at < inf for o in outcomes)
    assert {call[1] for o in outcomes for call in o.calls if 1.0 < call[2] < 3.0} == {"slow"}


def test_a_late_replica_serves_from_when_it_is_loaded() -> None:
    models = {
        m: {"on": {"fast": {"plain": {"w0": w}, "load_s": 3.0}, "slow": {"plain": {"w0": 2 * w}}}}
        for m, w in (("small", 0.01), ("large", 0.02))
    }
    outcomes = play("slack", models=models)
    assert min(call[2] for o in outcomes for call in o.calls if call[1] == "fast") >= 3.0


@pytest.mark.parametrize("seed", range(5))
def test_the_clairvoyant_schedule_is_at_least_as_good_as_every_policy(seed: int) -> None:
    made = scenario()
    met = {name: sum(o.met for o in play(name, seed)) for name in POLICIES}
    assert most_in_time(made, Workload(made, seed).runs(), max(met.values()), tries=50) >= max(met.values())


# -- reports -------------------------------------------------------------------------------------


def test_a_report_counts_what_happened() -> None:
    outcomes = play("greedy")
    told = measure(scenario(), outcomes)
    assert told.goodput == sum(o.met for o in outcomes) / 12
    assert told.finished_late == sum(not o.met for o in outcomes)
    assert sum(told.share.values()) == pytest.approx(1.0)
    assert told.cost == pytest.approx(2.0 * told.makespan_s / 3600)


@pytest.mark.parametrize("seeds", [2, 5, 31, 60])
def test_an_interval_is_that_of_students_t(seeds: int) -> None:
    draw = random.Random(seeds)
    values = [draw.gauss(10.0, 3.0) for _ in range(seeds)]
    low, high = stats.t.interval(0.95, seeds - 1, loc=fmean(values), scale=stats.sem(values))
    one = interval(values)
    assert (one.mean, one.low, one.high) == pytest.approx((fmean(values), low, high), rel=1e-3)


def test_an_interval_of_shares_stays_within_what_they_can_be() -> None:
    one = interval([0.9, 1.0, 0.6], 0.0, 1.0)
    assert one.low < one.mean < one.high == 1.0
    assert interval([0.7]) == interval([0.7, 0.7]) == Interval(0.7, 0.7, 0.7)


def test_the_relaxation_that_a_share_of_runs_needs_is_that_of_all_seeds_together() -> None:
    one = measure(scenario(), play("greedy"))
    good = replace(one, scale_95=0.5, scale_99=0.5, scale_curve=(0.5,) * 101)
    poor = replace(one, scale_95=0.5, scale_99=3.0, scale_curve=(0.5,) * 97 + (3.0,) * 4)
    row = Cell("greedy", 1.0, (good, good, good, poor)).record()
    assert (row["scale_95"], row["scale_99"]) == (0.5, 0.5)  # of 400 runs, 4 were late
    row = Cell("greedy", 1.0, (good, poor)).record()
    assert (row["scale_95"], row["scale_99"]) == (0.5, 3.0)


def test_the_crossing_is_the_last_one_down() -> None:
    assert crossing([1, 2, 3, 4, 5], [1.0, 0.6, 0.8, 0.6, 0.1]) == pytest.approx(3.5)
    assert crossing([1, 2], [1.0, 0.9]) == inf
