"""The simulated cluster against others that know nothing of it: a SimPy model, and queueing theory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from math import factorial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fmware.simulation.course import Outcome
from dask_fmware.simulation.sampled import SampledRun
from dask_fmware.simulation.scenario import Scenario
from dask_fmware.simulation.workload import Workload
from dask_fmware.simulation.world import World

simpy = pytest.importorskip("simpy")

STEP_S = {"a": 0.011, "b": 0.023}  # of every step, by card
PROMPT_S = 1e-4  # of every prompt token


def chain(seed: int, rate: float) -> tuple[Scenario, list[Any]]:
    nodes = {
        "first": {"model": "m", "prompt": {"uniform": [5, 300]}, "output": {"uniform": [1, 30]}},
        "code": {"seconds": {"uniform": [0.0, 0.2]}, "after": ["first"]},
        "answer": {"model": "m", "prompt": {"uniform": [5, 500]}, "output": {"uniform": [1, 60]}, "after": ["code"],
                   "answers": True},
    }  # fmt: skip
    made = Scenario.model_validate(
        {
            "cards": {"a": {"count": 2}, "b": {"count": 1}},
            "models": {"m": {"on": {c: {"plain": {"w0": s, "w1": PROMPT_S}} for c, s in STEP_S.items()}}},
            "workflows": {"chain": {"nodes": nodes}},
            "arrivals": {"kind": "poisson", "rate": rate, "duration_s": 30.0},
            "hop_s": 0.004,
        }
    )
    return made, Workload(made, seed).runs()


def by_simpy(runs: list[Any], hop_s: float) -> dict[str, tuple[float, float]]:
    """Round robin over three serial replicas, step by step: first token and end of each run."""
    env = simpy.Environment()
    cards = ["a", "a", "b"]
    replicas = [simpy.Resource(env) for _ in cards]
    turn, found = count(), {}

    def call(lengths: tuple[int, int]):  # type: ignore[no-untyped-def]
        number = next(turn) % 3
        with replicas[number].request() as slot:
            yield slot
            prompt, output = lengths
            yield env.timeout(STEP_S[cards[number]] + PROMPT_S * prompt)
            first = env.now
            for _ in range(output - 1):
                yield env.timeout(STEP_S[cards[number]])
            return first

    def run(one: Any):  # type: ignore[no-untyped-def]
        yield env.timeout(one.arrival)
        yield from call(one.nodes[0].call)
        yield env.timeout(hop_s)
        yield env.timeout(one.nodes[1].seconds)
        yield env.timeout(hop_s)
        first = yield from call(one.nodes[2].call)
        found[one.run_id] = (first, env.now)

    for one in runs:
        env.process(run(one))
    env.run()
    return found


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([0.3, 1.0, 3.0]))
def test_a_cluster_agrees_with_a_simpy_model_that_takes_every_step(seed: int, rate: float) -> None:
    made, runs = chain(seed, rate)
    theirs = by_simpy(runs, made.hop_s)
    for outcome in World(made, "round_robin", runs, seed).play():
        first, end = theirs[outcome.run.run_id]
        assert outcome.first_token_at == pytest.approx(first, rel=1e-9)
        assert outcome.finished_at == pytest.approx(end, rel=1e-9)


def queue(servers: int, load: float, service: Callable[[], float], calls: int, seed: int) -> list[tuple[float, ...]]:
    """A queue with one call for each run: arrival, seconds of service, end; services of mean one."""
    made = Scenario.model_validate(
        {
            "cards": {"card": {"count": servers}},
            "models": {"m": {"on": {"card": {"plain": {"w0": 0.0005}}}}},
            "workflows": {"one": {"nodes": {"answer": {"model": "m", "prompt": 1, "output": 1, "answers": True}}}},
            "arrivals": {"kind": "poisson", "rate": load * servers, "duration_s": calls / load / servers},
            "history": 0,
        }
    )
    found: list[tuple[float, ...]] = []

    def drawn() -> Iterator[SampledRun]:
        for run in Workload(made, seed).drawn():
            run.nodes[0].call = (1, max(1, round(service() * 2000)))
            yield run

    def ended(outcome: Outcome) -> None:
        lengths = outcome.run.nodes[0].call
        assert lengths is not None
        found.append((outcome.run.arrival, lengths[1] * 0.0005, outcome.finished_at))

    World(made, "slack", drawn(), seed, ended=ended).play()
    return sorted(found)


def sojourn(servers: int, load: float, service: Callable[[], float]) -> float:
    """Mean time in system over 120,000 calls."""
    found = [call for seed in range(3) for call in queue(servers, load, service, 40_000, seed)]
    return sum(end - arrival for arrival, _, end in found) / len(found)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.9), (4, 0.95), (16, 0.95)])
def test_a_central_queue_is_the_one_of_kiefer_and_wolfowitz_call_by_call(servers: int, load: float) -> None:
    """First come, first served: each call starts when it is there and the first server is free."""
    draws = random.Random(servers)
    free = [0.0] * servers
    for arrival, seconds, end in queue(servers, load, lambda: draws.expovariate(1.0), 1_500, 0):
        expected = max(arrival, heappop(free)) + seconds
        heappush(free, expected)
        assert end == pytest.approx(expected, rel=1e-9)


def erlang_c(servers: int, load: float) -> float:
    """Mean time in system of M/M/c, in services: 1 + P(wait) / (c (1 - load))."""
    offered = servers * load
    busy = offered**servers / factorial(servers) / (1 - load)
    waits = busy / (sum(offered**k / factorial(k) for k in range(servers)) + busy)
    return 1.0 + waits / (servers * (1 - load))


# Loads at which the standard error of so many calls, autocorrelation included, is below one percent.


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("servers", "load"), [(1, 0.4), (2, 0.5), (4, 0.6), (16, 0.75)])
def test_several_servers_take_what_erlang_says_within_two_percent(servers: int, load: float) -> None:
    draws = random.Random(servers)
    found = sojourn(servers, load, lambda: draws.expovariate(1.0))
    assert found == pytest.approx(erlang_c(servers, load), rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("load", [0.4, 0.6, 0.7])
def test_constant_service_takes_what_theory_says_within_two_percent(load: float) -> None:
    """M/D/1: mean wait is load / (2 (1 - load)) services (Pollaczek and Khinchine)."""
    found = sojourn(1, load, lambda: 1.0)
    assert found == pytest.approx(1.0 + load / (2 * (1 - load)), rel=0.02)
