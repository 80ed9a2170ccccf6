from __future__ import annotations

import pytest

from dask_fmware.provisioning import ModelLoad
from dask_fmware.provisioning.capacity import CallClass, bearing, stay_s
from dask_fmware.provisioning.filling import Filling, Soon, filled
from tests.provisioning.builders import inventory

CARDS = inventory(slots=32)
KEY = ("m", "slow")
LEAD_S = 7.0


def answers(rate: float, output: float = 3000.0) -> CallClass:
    return CallClass("flow", "answer", "m", rate, 500.0, output, 2.0, answers=True)


def soon(now: float = 0.0, *, ready: int = 1, believed: float = 1.0, **load: int) -> Soon:
    found = {"m": ModelLoad(**load)}  # type: ignore[arg-type]
    return Soon(CARDS, found, {KEY: ready}, {"m": LEAD_S}, {"m": 20.0}, {"flow": believed}, now)


def full(calls: CallClass) -> float:
    kind = CARDS.kinds[KEY]
    return calls.rate * stay_s(kind, calls, bearing(kind, calls).batch)


def test_a_load_that_has_just_begun_counts_as_full_as_it_will_be_after_the_load_time() -> None:
    burst = answers(10.0)
    share = Filling().observe([burst], soon(running=20))["m"]
    assert 20 + 10 * LEAD_S < share * full(burst) < 1.5 * (20 + 10 * LEAD_S)


def test_short_calls_are_as_full_as_they_will_be_before_a_replica_has_loaded() -> None:
    assert Filling().observe([answers(10.0, output=30.0)], soon())["m"] > 1


@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
def test_a_load_that_has_lasted_is_full_however_empty_the_batches_are(replicas: int) -> None:
    steady, batch = answers(0.2), 0.0
    for _ in range(50):  # calls stay the longer the fuller the batches are
        batch = steady.rate * stay_s(CARDS.kinds[KEY], steady, batch) / replicas
    share = Filling().observe([steady], soon(ready=replicas, running=round(batch * replicas)))["m"]
    assert share >= 1


def test_prompts_keep_their_replicas_however_young_the_load_is() -> None:
    prompts = CallClass("flow", "answer", "m", 10.0, 4000.0, 3000.0, 20.0, answers=True)
    share = Filling().observe([prompts], soon(believed=1.0))["m"]
    kind = CARDS.kinds[KEY]
    assert kind.law is not None
    replicas = share * prompts.rate / bearing(kind, prompts).rate
    assert replicas > prompts.rate * kind.law.prefill_s(4000.0)


def test_of_calls_that_are_not_believed_only_those_count_that_are_there() -> None:
    burst = answers(10.0)
    share = Filling().observe([burst], soon(running=20, believed=0.0))["m"]
    assert 20 < share * full(burst) < 40


def test_what_was_there_counts_for_as_long_as_the_rate_does() -> None:
    filling, burst = Filling(), answers(10.0)
    first = filling.observe([burst], soon(0.0, running=20))["m"]
    assert filling.observe([burst], soon(19.0, running=0))["m"] == first
    assert filling.observe([burst], soon(41.0, running=0))["m"] < first


def test_rates_are_never_raised() -> None:
    assert filled([answers(3.0)], {"m": 1.7}) == [answers(3.0)]
    assert filled([answers(3.0)], {"m": 0.5}) == [answers(1.5)]
    assert filled([answers(3.0)], {}) == [answers(3.0)]
